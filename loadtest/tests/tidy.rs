//! Order that no compiler keeps: lengths, names, module documents, links, leftovers.
//!
//! Rules that clippy has (length of functions, bans of calls) are not repeated here. The words that are banned
//! stand in pieces in this file, so that it does not find itself.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::fs;
use std::path::{Path, PathBuf};

/// A file this long is still one shelf; beyond it a module document says why, with the words below.
const LINES_MAX: usize = 600;
const LONG_REASON: &str = "long because";

/// Most files stay below this.
const LINES_USUAL: usize = 400;
const USUAL_SHARE_PERCENT: usize = 95;

/// Names that say nothing about what is inside.
const BANNED_FILES: [&str; 9] = [
    "common", "helper", "helpers", "manager", "misc", "mod", "types", "util", "utils",
];

/// Other systems' words for what has a name here; see the table in `docs/STYLE.md`.
const BANNED_WORDS: [&str; 11] = [
    "backend",
    "bitmap",
    "blacklist",
    "chunk",
    "metainfo",
    "nack",
    "scheduler",
    "segment",
    "supernode",
    "superseed",
    "torrent",
];

/// Folders of the project that can stand at the head of a path in a document.
const FOLDERS: [&str; 9] = [
    ".ci", ".config", "agent", "deploy", "docs", "loadtest", "origin", "proto", "tracker",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_path_buf()
}

/// Every text file of the project, by its path from the root.
fn files() -> Vec<(String, String)> {
    let root = root();
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = FOLDERS.iter().map(|folder| root.join(folder)).collect();
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                if path.file_name().is_some_and(|name| name != "target") {
                    folders.push(path);
                }
            } else {
                found.push(path);
            }
        }
    }
    found.extend(
        fs::read_dir(&root)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_file() && path.file_name().is_some_and(|name| name != ".git")),
    );
    found.sort();
    let name = |path: &Path| {
        path.strip_prefix(&root)
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned()
    };
    found
        .iter()
        .filter_map(|path| Some((name(path), fs::read_to_string(path).ok()?)))
        .collect()
}

fn sources() -> Vec<(String, String)> {
    let sources: Vec<_> = files()
        .into_iter()
        .filter(|(name, _)| name.ends_with(".rs"))
        .collect();
    assert!(
        sources.len() > 20,
        "the sources were not found: {}",
        sources.len()
    );
    sources
}

fn module_doc(text: &str) -> String {
    text.lines()
        .take_while(|line| line.starts_with("//!"))
        .collect::<Vec<_>>()
        .join(" ")
}

#[track_caller]
fn none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// A file of nothing but tests may be as long as a shelf can be.
fn is_test(name: &str) -> bool {
    name.ends_with("/tests.rs") || name.contains("/tests/")
}

#[test]
fn files_are_short_or_say_why_not() {
    let mut complaints = Vec::new();
    let sources = sources();
    for (name, text) in &sources {
        let lines = text.lines().count();
        if lines > LINES_MAX && !module_doc(text).contains(LONG_REASON) {
            complaints.push(format!(
                "{name}: {lines} lines; split it, or say `{LONG_REASON} …` in its module document"
            ));
        }
    }
    none(&complaints);
    let mut long: Vec<_> = sources
        .iter()
        .map(|(name, text)| (text.lines().count(), name))
        .filter(|(lines, name)| *lines > LINES_USUAL && !is_test(name))
        .collect();
    long.sort();
    let share = 100 * (sources.len() - long.len()) / sources.len();
    assert!(
        share >= USUAL_SHARE_PERCENT,
        "only {share} % of the files have at most {LINES_USUAL} lines: {long:?}"
    );
}

#[test]
fn every_file_opens_with_what_it_is_for() {
    let complaint = |(name, text): &(String, String)| {
        let doc = module_doc(text);
        (doc.len() < 30).then(|| format!("{name}: opens without a module document"))
    };
    none(&sources().iter().filter_map(complaint).collect::<Vec<_>>());
}

#[test]
fn no_file_has_a_name_that_says_nothing() {
    let complaint = |(name, _): &(String, String)| {
        let parts = name.trim_end_matches(".rs").split('/');
        let bad = parts.into_iter().find(|part| BANNED_FILES.contains(part))?;
        Some(format!("{name}: `{bad}` says nothing about what is inside"))
    };
    none(&sources().iter().filter_map(complaint).collect::<Vec<_>>());
}

/// The words of a name in snake or camel case, in small letters.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for letter in name.chars() {
        if letter == '_' || letter.is_uppercase() {
            words.push(String::new());
        }
        if letter != '_' {
            words.last_mut().unwrap().extend(letter.to_lowercase());
        }
    }
    words
}

/// The name that a line defines, if it defines one.
fn defined(line: &str) -> Option<&str> {
    let mut tokens = line.split_whitespace().skip_while(|token| {
        token.starts_with("pub")
            || matches!(*token, "async" | "const" | "static" | "unsafe") && line.contains("fn ")
    });
    let keyword = tokens.next()?;
    if !matches!(
        keyword,
        "const" | "enum" | "fn" | "mod" | "static" | "struct" | "trait" | "type"
    ) {
        return None;
    }
    let name = tokens.next()?;
    Some(
        &name[..name
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(name.len())],
    )
}

#[test]
fn things_are_called_by_our_names_for_them() {
    assert_eq!(
        defined("    pub(crate) async fn read_chunk(&self) -> X {"),
        Some("read_chunk")
    );
    assert_eq!(words("PieceChunkMap"), ["", "piece", "chunk", "map"]);
    let mut complaints = Vec::new();
    for (name, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            let bad = defined(line)
                .filter(|it| words(it).iter().any(|w| BANNED_WORDS.contains(&w.as_str())));
            if let Some(bad) = bad {
                complaints.push(format!(
                    "{name}:{}: `{bad}` uses another system's word",
                    number + 1
                ));
            }
        }
    }
    none(&complaints);
}

#[test]
fn nothing_is_left_unfinished_or_excused_without_reason() {
    let bans = [
        (concat!("TO", "DO"), "finish it, or file an issue"),
        (concat!("FIX", "ME"), "finish it, or file an issue"),
        (concat!("unimplemented", "!("), "finish it"),
        (concat!("#[al", "low("), "#[expect(…, reason = \"…\")]"),
        (concat!("#![al", "low("), "#![expect(…, reason = \"…\")]"),
        (
            concat!("should_", "panic"),
            "return the failure and check it",
        ),
        (
            concat!("#[ig", "nore]"),
            "give it a reason that names an issue",
        ),
    ];
    let mut complaints = Vec::new();
    for (name, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            for (ban, instead) in bans {
                if line.contains(ban) {
                    complaints.push(format!("{name}:{}: {ban}: {instead}", number + 1));
                }
            }
        }
    }
    none(&complaints);
}

#[test]
fn no_file_knows_the_machine_it_was_written_on() {
    let bans = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("/fa", "rm/"),
        concat!("/tmp", "/c/"),
    ];
    let mut complaints = Vec::new();
    for (name, text) in files() {
        for (number, line) in text.lines().enumerate() {
            if let Some(ban) = bans.iter().find(|ban| line.contains(*ban)) {
                complaints.push(format!(
                    "{name}:{}: a path of one machine: {ban}",
                    number + 1
                ));
            }
        }
    }
    none(&complaints);
}

/// Targets of `[text](target)` in a document.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
}

/// What stands in backquotes and begins with a folder of ours.
fn quoted_paths(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2).filter(|quoted| {
        let head = quoted.split('/').next().unwrap_or_default();
        quoted.contains('/')
            && FOLDERS.contains(&head)
            && !quoted.contains(['*', '{', ' ', '<', '\n', '…'])
    })
}

#[test]
fn every_link_and_path_in_a_document_leads_somewhere() {
    let root = root();
    let mut complaints = Vec::new();
    let mut seen = 0;
    for (name, text) in files()
        .into_iter()
        .filter(|(name, _)| name.ends_with(".md"))
    {
        let folder = root.join(&name).parent().unwrap().to_path_buf();
        let outside = |link: &&str| {
            !link.contains("://") && !link.starts_with('#') && !link.starts_with("mailto:")
        };
        for link in links(&text).filter(outside) {
            let path = link.split(['#', ' ']).next().unwrap();
            seen += 1;
            if !folder.join(path).exists() {
                complaints.push(format!("{name}: the link to {link} leads nowhere"));
            }
        }
        for path in quoted_paths(&text) {
            let file = path.split([':', '#']).next().unwrap();
            seen += 1;
            if !root.join(file).exists() {
                complaints.push(format!("{name}: there is no {path}"));
            }
        }
    }
    assert!(
        seen > 10,
        "the documents were not read: {seen} links and paths"
    );
    none(&complaints);
}

#[test]
fn the_core_repeats_every_ban_of_the_whole() {
    let paths = |file: &str| -> Vec<String> {
        let text = fs::read_to_string(root().join(file)).unwrap();
        let table: toml::Table = text.parse().unwrap();
        let bans = table["disallowed-methods"].as_array().unwrap();
        bans.iter()
            .map(|ban| ban["path"].as_str().unwrap().to_owned())
            .collect()
    };
    let core = paths("proto/clippy.toml");
    for ban in paths("clippy.toml") {
        assert!(
            core.contains(&ban),
            "proto/clippy.toml lacks {ban}; clippy reads the nearest file only"
        );
    }
}

/// Whether there is a test of that name: a law that nobody runs holds nothing.
fn is_law(sources: &[(String, String)], name: &str) -> bool {
    let head = format!("fn {name}(");
    let is_test = |line: &str| line.starts_with("#[test]") || line.starts_with("#[tokio::test");
    sources.iter().any(|(_, text)| {
        text.split_once(&head).is_some_and(|(before, _)| {
            let attributes = before.trim_end_matches("async ").trim_end();
            let own = attributes.lines().rev().map(str::trim);
            own.take_while(|line| !line.is_empty() && *line != "}")
                .any(is_test)
        })
    })
}

/// What stands in backquotes and reads like the name of a test: words enough for a sentence.
fn quoted_laws(text: &str) -> impl Iterator<Item = &str> {
    let word = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit();
    text.split('`').skip(1).step_by(2).filter(move |quoted| {
        quoted.matches('_').count() >= 3
            && !quoted.starts_with("shoal_")
            && quoted.chars().all(|letter| word(letter) || letter == '_')
    })
}

/// Rows of a table between two headings, cut into their cells.
fn rows<'a>(page: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let section = page.split_once(heading).map_or("", |(_, after)| after);
    let section = section.split("\n## ").next().unwrap_or_default();
    let cells = |line: &'a str| line.split('|').map(str::trim).collect::<Vec<_>>();
    let table = section.lines().filter(|line| line.starts_with("| "));
    table
        .map(cells)
        .filter(|cells| !cells[1].starts_with(['-', '#']))
        .collect()
}

/// `docs/CLIENTS.md` says of each promise to clients which test holds it: it has all rows, and each row a test.
#[test]
fn every_row_of_the_clients_page_names_a_test() {
    let page = fs::read_to_string(root().join("docs/CLIENTS.md")).unwrap();
    let rows = rows(&page, "\n## The matrix\n");
    for (index, cells) in rows.iter().enumerate() {
        let number = (index + 1).to_string();
        assert_eq!(cells[1], number, "in order, and none left out");
        let named = cells[3].split('`').nth(1).is_some() && !cells[4].is_empty();
        assert!(named, "row {number} names no test, or not with what");
    }
    assert_eq!(rows.len(), 45, "rows of the matrix");
}

/// The same of what `docs/SECURITY.md` promises.
#[test]
fn every_row_of_the_security_page_names_a_test() {
    let page = fs::read_to_string(root().join("docs/SECURITY.md")).unwrap();
    let rows = rows(&page, "\n## What is tested\n");
    assert!(rows.len() > 8, "the table was not read: {}", rows.len());
    for cells in rows.iter().filter(|cells| cells[1] != "promise") {
        assert!(quoted_laws(cells[2]).next().is_some(), "{}", cells[1]);
    }
}

#[test]
fn every_test_that_a_document_names_is_one() {
    let sources = sources();
    assert!(is_law(&sources, "every_test_that_a_document_names_is_one"));
    assert!(!is_law(&sources, "quoted_laws"), "a helper is no law");
    let mut complaints = Vec::new();
    let mut seen = 0;
    let mut check = |page: &str, law: &str| {
        seen += 1;
        if !is_law(&sources, law) {
            complaints.push(format!("{page}: there is no test {law}"));
        }
    };
    for page in ["docs/CLIENTS.md", "docs/SECURITY.md"] {
        let text = fs::read_to_string(root().join(page)).unwrap();
        quoted_laws(&text).for_each(|law| check(page, law));
        // In the matrix names of few words are tests as well.
        for cells in rows(&text, "\n## The matrix\n") {
            let laws = cells[3].split('`').skip(1).step_by(2);
            laws.for_each(|law| check(page, law));
        }
    }
    assert!(seen > 100, "the documents were not read: {seen} tests");
    none(&complaints);
}
