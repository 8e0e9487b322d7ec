//! The text of a `hosts.toml` with our host in it, and the text without it.
//!
//! Pure. What was written by others keeps every byte: our block is put between their root keys and their first
//! table, so that our host is the first one tried, and taken out by its marks.
//! Holds: a result parses, has all that was there before, and at least one host table, without which containerd 1.x
//! ignores the file. No capability but `pull` and `resolve`: one unknown to an old containerd discards the file.

use std::ops::Range;

use shoal_proto::{Digest, DigestAlgorithm, DigestHasher};
use toml_edit::{Document, DocumentMut, Item, Table};

const BEGIN: &str = "# >>> shoal-agent";
const END: &str = "# <<< shoal-agent";

/// What we want a registry's file to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// `http://127.0.0.1:5050`
    pub(crate) agent_url: String,
    /// Where the registry itself is; `None` for `_default`, where containerd knows better.
    pub(crate) server: Option<String>,
}

/// Why a file is left as it is.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    #[error(
        "it already names {0}, written by hand; take that entry out, or keep it and skip this registry"
    )]
    NamedByHand(String),
    #[error("our host cannot be put first: write the file's hosts as [host.\"URL\"] tables")]
    Inline,
    #[error("not valid TOML, so containerd ignores it: {0}; mend or remove it")]
    Toml(#[from] Box<toml_edit::TomlError>),
    #[error("not text")]
    NotText,
}

/// The file with our host first. `original` is what others wrote, without any block of ours.
pub(crate) fn insert(original: Option<&str>, entry: &Entry) -> Result<String, EditError> {
    let original = original.unwrap_or_default();
    let doc = parse(original)?;
    if host(doc.as_table(), &entry.agent_url).is_some() {
        return Err(EditError::NamedByHand(entry.agent_url.clone()));
    }
    let at = line_end(original, end_of_root_keys(doc.as_table()));
    let (head, tail) = original.split_at(at);
    let server = entry
        .server
        .as_deref()
        .filter(|_| !doc.contains_key("server"));
    let mut text = String::with_capacity(original.len() + 512);
    text.push_str(head);
    if !head.is_empty() && !head.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(&block(original, &entry.agent_url, server));
    text.push_str(tail);
    let result = parse(&text).map_err(|_| EditError::Inline)?;
    if first_host(result.as_table()).as_deref() != Some(entry.agent_url.as_str()) {
        return Err(EditError::Inline);
    }
    Ok(text)
}

/// The file without what we put into it; `None` when nothing is left. Without our marks, the host table itself is
/// taken out.
pub(crate) fn remove(current: &str, agent_url: Option<&str>) -> Result<Option<String>, EditError> {
    let mut text = current.to_owned();
    while let Some(range) = marked(&text) {
        text.replace_range(range, "");
    }
    if let Some(url) = agent_url
        && let Some(without) = without_host(&text, url)
    {
        text = without;
    }
    parse(&text)?;
    Ok((!text.trim().is_empty()).then_some(text))
}

/// Whether a file carries a block of ours.
pub(crate) fn is_marked(text: &str) -> bool {
    marked(text).is_some()
}

/// The hosts of a file in the order in which containerd tries them.
pub(crate) fn hosts(text: &str) -> Result<Vec<String>, EditError> {
    Ok(sorted_hosts(parse(text)?.as_table()))
}

fn block(original: &str, agent_url: &str, server: Option<&str>) -> String {
    let mut hasher = DigestHasher::new(DigestAlgorithm::Sha256);
    hasher.update(original.as_bytes());
    let was: Digest = hasher.finish();
    let server = server
        .map(|server| format!("server = {}\n\n", toml_edit::Value::from(server)))
        .unwrap_or_default();
    format!(
        "{BEGIN} {}: do not edit between these marks; `shoal-agent containerd uninstall` takes them away\n\
         # before: {was}\n\
         {server}[host.{}]\n  capabilities = [\"pull\", \"resolve\"]\n  dial_timeout = \"200ms\"\n{END}\n",
        env!("CARGO_PKG_VERSION"),
        toml_edit::Value::from(agent_url),
    )
}

fn parse(text: &str) -> Result<Document<&str>, EditError> {
    Document::parse(text).map_err(|error| EditError::Toml(Box::new(error)))
}

fn marked(text: &str) -> Option<Range<usize>> {
    let begin = line_starting(text, BEGIN, 0)?;
    let last = line_starting(text, END, begin)?;
    Some(begin..line_end(text, last + 1))
}

fn line_starting(text: &str, mark: &str, from: usize) -> Option<usize> {
    text[from..]
        .match_indices(mark)
        .map(|(at, _)| from + at)
        .find(|at| *at == 0 || text.as_bytes()[at - 1] == b'\n')
}

/// The offset after the line that holds offset `at - 1`.
fn line_end(text: &str, at: usize) -> usize {
    match at {
        0 => 0,
        at => text[at - 1..]
            .find('\n')
            .map_or(text.len(), |newline| at + newline),
    }
}

fn end_of_root_keys(table: &Table) -> usize {
    table
        .iter()
        .map(|(_, item)| match item {
            Item::Value(value) => value.span().map_or(0, |span| span.end),
            Item::Table(inner) if inner.is_dotted() => end_of_root_keys(inner),
            _ => 0,
        })
        .max()
        .unwrap_or(0)
}

fn host<'a>(root: &'a Table, url: &str) -> Option<&'a Item> {
    root.get("host")
        .and_then(Item::as_table_like)
        .and_then(|hosts| hosts.get(url))
}

fn first_host(root: &Table) -> Option<String> {
    sorted_hosts(root).into_iter().next()
}

fn sorted_hosts(root: &Table) -> Vec<String> {
    let Some(hosts) = root.get("host").and_then(Item::as_table_like) else {
        return Vec::new();
    };
    let mut placed: Vec<(usize, String)> = hosts
        .iter()
        .map(|(url, item)| {
            (
                item.span().map_or(usize::MAX, |span| span.start),
                url.to_owned(),
            )
        })
        .collect();
    placed.sort();
    placed.into_iter().map(|(_, url)| url).collect()
}

fn without_host(text: &str, url: &str) -> Option<String> {
    let mut doc: DocumentMut = text.parse().ok()?;
    let hosts = doc.get_mut("host")?.as_table_like_mut()?;
    hosts.remove(url)?;
    if hosts.is_empty() {
        doc.remove("host");
    }
    Some(doc.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const URL: &str = "http://127.0.0.1:5050";

    fn entry() -> Entry {
        Entry {
            agent_url: URL.to_owned(),
            server: Some("https://registry-1.docker.io".to_owned()),
        }
    }

    #[test]
    fn a_new_file_has_the_form_that_every_containerd_reads() {
        let text = insert(None, &entry()).unwrap();
        let body: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            body,
            [
                "server = \"https://registry-1.docker.io\"",
                "",
                "[host.\"http://127.0.0.1:5050\"]",
                "  capabilities = [\"pull\", \"resolve\"]",
                "  dial_timeout = \"200ms\"",
            ]
        );
        assert_eq!(remove(&text, Some(URL)).unwrap(), None);
    }

    #[test]
    fn default_has_no_server() {
        let text = insert(
            None,
            &Entry {
                server: None,
                ..entry()
            },
        )
        .unwrap();
        assert!(!text.contains("server"));
        assert_eq!(hosts(&text).unwrap(), [URL]);
    }

    #[test]
    fn what_others_wrote_stays_and_comes_after_our_host() {
        let original = "# ours since 2021\nserver = \"https://a.test\" # keep\nca = [\n  \"/a\",\n]\n\n# the old mirror\n[host.\"https://old.test\"]\n  skip_verify = true\n[host.\"https://old.test\".header]\n  x = \"y\"\n";
        let text = insert(Some(original), &entry()).unwrap();
        assert_eq!(hosts(&text).unwrap(), [URL, "https://old.test"]);
        let doc = Document::parse(text.as_str()).unwrap();
        assert_eq!(doc["server"].as_str(), Some("https://a.test"));
        assert_eq!(doc["ca"][0].as_str(), Some("/a"));
        assert_eq!(
            doc["host"]["https://old.test"]["header"]["x"].as_str(),
            Some("y")
        );
        assert_eq!(remove(&text, Some(URL)).unwrap().as_deref(), Some(original));
    }

    #[test]
    fn a_file_without_a_last_newline_is_understood() {
        let text = insert(Some("server = \"https://a.test\""), &entry()).unwrap();
        assert_eq!(hosts(&text).unwrap(), [URL]);
        assert!(text.starts_with("server = \"https://a.test\"\n# >>>"));
    }

    #[test]
    fn files_that_cannot_be_merged_say_why() {
        let check = |original: &str| insert(Some(original), &entry()).unwrap_err();
        assert!(matches!(check("server = "), EditError::Toml(_)));
        assert!(matches!(
            check("host = { \"https://a.test\" = { } }"),
            EditError::Inline
        ));
        assert!(matches!(
            check("host.\"https://a.test\".capabilities = [\"pull\"]"),
            EditError::Inline
        ));
        assert!(matches!(
            check(&format!("[host.\"{URL}\"]\n")),
            EditError::NamedByHand(_)
        ));
    }

    #[test]
    fn an_edit_by_others_after_ours_survives_removal() {
        let text = insert(None, &entry()).unwrap() + "\n[host.\"https://new.test\"]\n";
        let left = remove(&text, Some(URL)).unwrap().unwrap();
        assert_eq!(hosts(&left).unwrap(), ["https://new.test"]);
        // Somebody took our marks away and kept the table: it still goes.
        let unmarked: String = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| format!("{line}\n"))
            .collect();
        assert_eq!(
            hosts(&remove(&unmarked, Some(URL)).unwrap().unwrap()).unwrap(),
            ["https://new.test"]
        );
    }

    fn arbitrary_file() -> impl Strategy<Value = String> {
        let root = prop::sample::select(vec![
            "server = \"https://a.test\"\n",
            "ca = \"/etc/ca.crt\" # why\n",
            "capabilities = [\n  \"pull\",\n]\n",
            "# a comment\n",
            "\n",
            "override_path = true\r\n",
        ]);
        let table = prop::sample::select(vec![
            "[host.\"https://b.test\"]\n  capabilities = [\"pull\"]\n",
            "# about c\n[host.\"http://c.test:80\"]\n",
            "[host.\"https://d.test\"]\n[host.\"https://d.test\".header]\n  a = [\"b\"]\n",
            "\n# end\n",
        ]);
        let pick = |lines: Vec<&'static str>| {
            let mut seen = std::collections::BTreeSet::new();
            lines
                .into_iter()
                .filter(|line| seen.insert(*line))
                .collect::<String>()
        };
        (
            prop::collection::vec(root, 0..5),
            prop::collection::vec(table, 0..4),
            any::<bool>(),
        )
            .prop_map(move |(root, tables, cut)| {
                let mut text = pick(root) + &pick(tables);
                if cut {
                    text.truncate(text.trim_end_matches(['\r', '\n']).len());
                }
                text
            })
    }

    proptest! {
        #[test]
        fn our_host_is_first_and_nothing_else_changes(original in arbitrary_file()) {
            let before = hosts(&original).unwrap();
            let text = insert(Some(&original), &entry()).unwrap();
            let mut expected = vec![URL.to_owned()];
            expected.extend(before);
            prop_assert_eq!(hosts(&text).unwrap(), expected);
            let old = original.parse::<DocumentMut>().unwrap();
            let new = text.parse::<DocumentMut>().unwrap();
            for (key, item) in old.iter().filter(|(key, _)| *key != "host") {
                prop_assert_eq!(new[key].to_string(), item.to_string());
            }
            let left = remove(&text, Some(URL)).unwrap().unwrap_or_default();
            prop_assert_eq!(left.trim(), original.trim());
        }

        #[test]
        fn any_text_is_merged_or_refused(original in ".{0,200}") {
            if let Ok(text) = insert(Some(&original), &entry()) {
                prop_assert!(is_marked(&text));
            }
            let _ = remove(&original, Some(URL));
        }
    }
}
