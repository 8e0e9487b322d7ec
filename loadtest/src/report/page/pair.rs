//! Two reports on one page: when their agents were done, every figure of both, and the conditions that differ.

use maud::{Markup, html};

use super::{document, figure, finish, title};
use crate::report::compare::{Comparison, Row, Verdict, ratio};
use crate::report::{Report, written};

pub(in crate::report) fn render(a: &Report, b: &Report, comparison: &Comparison) -> String {
    let name = "Two runs compared";
    let body = html! {
        header {
            p.brand { "Shoal " span.muted { "compare" } }
            h1 { (name) }
            (which("A", "a", a)) (which("B", "b", b))
            (verdict(comparison))
        }
        main {
            @if !comparison.incomparable.is_empty() {
                section.notes {
                    h2 { "These runs do not compare" }
                    ul { @for line in &comparison.incomparable { li { (line) } } }
                }
            }
            @if let Some(drawn) = finish::both(a, b) {
                (figure("When the agents were done", "Share of the agents of each run that have the whole blob, checked.", &drawn, &html! {}))
            }
            (figures(comparison))
            @if !comparison.differences.is_empty() { (differences(comparison)) }
        }
    };
    document(name, &body)
}

fn which(name: &str, class: &str, report: &Report) -> Markup {
    let facts = [
        report.versions.revision.clone(),
        report.made_at.as_deref().map(written::moment),
    ];
    html! {
        p { span.{ "swatch run-" (class) } {} b { (name) } " " (report.kind.name()) ", " (title(report))
            span.muted { @for fact in facts.iter().flatten() { " · " (fact) } } }
    }
}

fn verdict(comparison: &Comparison) -> Markup {
    let count = |verdict| {
        comparison
            .rows
            .iter()
            .filter(|row| row.verdict == verdict)
            .count()
    };
    let (better, worse) = (count(Verdict::Better), count(Verdict::Worse));
    html! {
        p.verdict.good[worse == 0].bad[worse > 0] {
            "In B, " (better) " better and " (worse) " worse"
        }
    }
}

fn figures(comparison: &Comparison) -> Markup {
    let shown = |row: &&Row| row.a.is_some() || row.b.is_some();
    html! {
        section {
            h2 { "All figures" }
            div.scroll { table.figures {
                thead { tr {
                    th scope="col" { "key" } th scope="col" { "A" } th scope="col" { "B" }
                    th scope="col" { "B over A" } th scope="col" { "B is" }
                } }
                tbody { @for row in comparison.rows.iter().filter(shown) {
                    tr {
                        th scope="row" { code { (row.key) } }
                        td { (written::figure(row.a, row.unit)) }
                        td { (written::figure(row.b, row.unit)) }
                        td { (ratio(row)) }
                        td.result.good[row.verdict == Verdict::Better].bad[row.verdict == Verdict::Worse]
                            .muted[matches!(row.verdict, Verdict::Alike | Verdict::Neither)] { (row.verdict.says()) }
                    }
                } }
            } }
        }
    }
}

fn differences(comparison: &Comparison) -> Markup {
    html! {
        section {
            h2 { "Conditions that differ" }
            div.scroll { table.figures {
                thead { tr { th scope="col" { "what" } th scope="col" { "A" } th scope="col" { "B" } } }
                tbody { @for (name, a, b) in &comparison.differences {
                    tr { th scope="row" { code { (name) } } td.text { (a) } td.text { (b) } }
                } }
            } }
        }
    }
}
