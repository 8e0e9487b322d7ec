//! Path, query and `OCI-Namespace`: whatever they say, they lead to a registry of the list or nowhere.
#![no_main]
#![expect(dead_code, reason = "what is fuzzed is a part of each file")]

#[path = "../../src/mirror/name.rs"]
mod name;
#[path = "../../src/mirror/query.rs"]
mod query;
#[path = "../../src/mirror/registries.rs"]
mod registries;
#[path = "../../src/mirror/route.rs"]
mod route;

use libfuzzer_sys::fuzz_target;
use query::Query;
use registries::Registries;
use route::{Asked, Route};

fuzz_target!(|asked: (&str, Option<&str>, Option<&str>, bool)| {
    let (path, query, namespace, bound) = asked;
    let registries = Registries::try_new(
        ["docker.io", "quay.io", "127.0.0.1:5000", "[::1]:5000"],
        [("hub.lan", "docker.io")],
    )
    .expect("a good list");
    let hub = "docker.io".parse().expect("a name");
    let asked = Asked {
        path,
        query,
        namespace,
        bound: bound.then_some(&hub),
    };
    if let Some(query) = Query::parse(query) {
        assert!(query.upstream().bytes().all(|byte| byte.is_ascii_graphic()));
    }
    if let Ok(route) = Route::parse(asked, &registries)
        && let Some(target) = route.target()
    {
        assert!(
            registries
                .iter()
                .any(|listed| listed.name == target.registry)
        );
        assert!(!target.repository.as_str().contains(".."));
    }
});
