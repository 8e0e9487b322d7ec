//! What is read and not looked at: gates, every figure with its meaning, and the conditions of the run.

use maud::{Markup, html};
use serde_json::Value;

use crate::report::{KEYS, Report, Unit, written};

/// A value of an extra figure is cut here; a page is no place for more.
const TEXT_MAX: usize = 400;

/// A sign for those who see no colour, and a word for those who see no sign.
pub(super) fn tick(good: bool) -> Markup {
    html! {
        span.tick-sign.good[good].bad[!good] aria-hidden="true" { @if good { "✓" } @else { "✗" } }
    }
}

pub(super) fn gates(report: &Report) -> Markup {
    let unit = |key: &str| {
        let known = KEYS.iter().find(|known| known.name == key);
        known.map_or(Unit::Copies, |known| known.unit)
    };
    html! {
        section.gates {
            h2 { "Gates" }
            div.scroll { table {
                thead { tr {
                    th scope="col" { "gate" } th scope="col" { "figure" } th scope="col" { "measured" } th scope="col" { "at most" }
                } }
                tbody { @for gate in &report.gates {
                    tr {
                        td.result.good[gate.held].bad[!gate.held] {
                            (tick(gate.held)) @if gate.held { " holds" } @else { " broken" }
                        }
                        th scope="row" { code { (gate.key) } }
                        td { (written::figure(gate.value, unit(&gate.key))) }
                        td { (written::figure(Some(gate.at_most), unit(&gate.key))) }
                    }
                } }
            } }
        }
    }
}

/// Every figure, those that do not apply among them.
pub(super) fn figures(report: &Report) -> Markup {
    html! {
        section {
            h2 { "All figures" }
            div.scroll { table.figures {
                thead { tr { th scope="col" { "key" } th scope="col" { "value" } th.wide scope="col" { "meaning" } } }
                tbody { @for key in KEYS {
                    @let value = (key.of)(report);
                    tr.absent[value.is_none()] {
                        th scope="row" { code { (key.name) } }
                        td { (written::figure(value, key.unit)) }
                        td.wide { (key.means) }
                    }
                } }
            } }
            @if !report.extra.is_empty() {
                h3 { "Figures of this kind of run" }
                div.scroll { table.figures { tbody { @for (key, value) in &report.extra {
                    tr { th scope="row" { code { (key) } } td.text { (plain(value)) } }
                } } } }
            }
        }
    }
}

fn plain(value: &Value) -> String {
    let text = match value {
        Value::Null => written::NOTHING.to_owned(),
        Value::Number(number) => number
            .as_f64()
            .map_or_else(|| number.to_string(), written::count),
        Value::Object(map) => {
            let each = map
                .iter()
                .map(|(key, value)| format!("{key} {}", short(value)));
            each.collect::<Vec<_>>().join(", ")
        }
        other => short(other),
    };
    cut(text)
}

fn short(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number
            .as_f64()
            .map_or_else(|| number.to_string(), written::count),
        other => other.to_string(),
    }
}

fn cut(text: String) -> String {
    match text.char_indices().nth(TEXT_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

/// Settings, machine, versions, and the command that repeats the run.
pub(super) fn conditions(report: &Report) -> Markup {
    let (machine, versions) = (&report.machine, &report.versions);
    let whole = |count: Option<u64>| count.map(|count| written::count(count as f64));
    let facts = [
        ("Processor", machine.cpu.clone()),
        ("Cores", whole(machine.cores)),
        (
            "Memory",
            machine
                .memory_bytes
                .map(|bytes| written::bytes(bytes as f64)),
        ),
        ("Kernel", versions.kernel.clone()),
        ("Shoal", versions.shoal.clone()),
        ("Revision", versions.revision.clone()),
        ("Trace hash", report.trace.clone()),
        ("Took", report.wall_s.map(written::secs)),
        ("Made", report.made_at.as_deref().map(written::moment)),
    ];
    html! {
        section.conditions {
            h2 { "Conditions" }
            @if !report.command.is_empty() {
                h3 { "To run it again" }
                pre { code { (again(&report.command)) } }
            }
            div.columns {
                div {
                    h3 { "Settings" }
                    dl.facts { @for (name, value) in &report.settings {
                        dt { code { "--" (name) } } dd { (cut(value.clone())) }
                    } }
                }
                div {
                    h3 { "Machine and versions" }
                    dl.facts { @for (name, value) in facts {
                        @if let Some(value) = value { dt { (name) } dd { (cut(value)) } }
                    } }
                }
            }
        }
    }
}

/// The command line without the files that it wrote, quoted for a shell.
fn again(command: &[String]) -> String {
    let mut words = command.iter();
    let mut line: Vec<String> = Vec::new();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--json" | "--report" => {
                words.next();
            }
            other if other.starts_with("--json=") || other.starts_with("--report=") => {}
            other => line.push(quoted(other)),
        }
    }
    line.join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,%+@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_to_run_it_again_writes_no_files_and_survives_a_shell() {
        let words = [
            "shoal-loadtest",
            "simulate",
            "--json",
            "a.json",
            "--report=b.html",
            "--gate",
            "p99_s<=2",
            "it's",
        ];
        let line = again(&words.map(str::to_owned));
        assert_eq!(line, r"shoal-loadtest simulate --gate 'p99_s<=2' 'it'\''s'");
    }
}
