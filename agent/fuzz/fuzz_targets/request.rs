//! Path, query and `OCI-Namespace`: whatever they say, they lead to a registry of the list or nowhere.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shoal_agent::mirror::listing::Query;
use shoal_agent::mirror::registries::Registries;
use shoal_agent::mirror::route::{Asked, Route};

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
