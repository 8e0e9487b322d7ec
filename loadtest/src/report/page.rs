//! A report as one page: no network, no script, no font of its own, so that it opens from a mail in ten years.
//!
//! Everything that it says is text of a report, which may come from elsewhere: maud escapes it all, and the page's own
//! policy forbids whatever would load or run. Plots are inline SVG; every one has words for those who do not see it
//! and a table with its numbers. Not here: how numbers are written (`written`), two reports side by side (`compare`).

mod axis;
mod finish;
mod heat;
mod links;
pub(super) mod pair;
mod plot;
mod tables;
mod traffic;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::written;
use super::{KEYS, Kind, Report, Unit};

const STYLE: &str = include_str!("page/style.css");
/// Nothing is loaded, nothing runs; the icon is empty so that no browser asks for one.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:";

/// The page of one report.
#[must_use]
pub(super) fn render(report: &Report) -> String {
    let title = title(report);
    let body = html! {
        (head(report, &title))
        main {
            (headline(report))
            @if !report.notes.is_empty() { (notes(report)) }
            @if !report.gates.is_empty() { (tables::gates(report)) }
            div.charts {
                @for drawn in [
                    finish::render(report), heat::render(report), traffic::sources(report),
                    traffic::copies(report), links::render(report),
                ].into_iter().flatten() { (drawn) }
            }
            (tables::figures(report))
            (tables::conditions(report))
        }
        footer { p { "Made by " b { "shoal-loadtest" } ". Everything on this page is in the page: nothing is loaded from anywhere." } }
    };
    document(&title, &body)
}

/// A whole document around a body.
pub(super) fn document(title: &str, body: &Markup) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                link rel="icon" href="data:,";
                title { (title) " – Shoal" }
                style { (PreEscaped(STYLE)) }
            }
            body { (body) }
        }
    };
    page.into_string()
}

/// A plot with its words and, folded away, its numbers.
fn figure(title: &str, caption: &str, drawn: &Markup, table: &Markup) -> Markup {
    html! {
        figure {
            h2 { (title) }
            figcaption { (caption) }
            (drawn)
            @if !table.0.is_empty() {
                details { summary { "Numbers" } div.scroll { (table) } }
            }
        }
    }
}

/// `1,000 agents, 5 GiB, 10 Gbit/s`.
pub(super) fn title(report: &Report) -> String {
    let link = report
        .link_bits_per_sec
        .map_or_else(|| "links not limited".to_owned(), written::bits_per_sec);
    format!(
        "{} agents, {}, {link}",
        written::count(report.agents as f64),
        written::bytes(report.blob_bytes as f64),
    )
}

fn head(report: &Report, title: &str) -> Markup {
    let how = match report.kind {
        Kind::Fanout => "Measured: real processes on shaped links",
        Kind::Simulate => "Simulated: the shipped core in virtual time",
    };
    let zones = (report.zones > 1).then(|| format!("{} zones", report.zones));
    let seed = report.seed.map(|seed| format!("seed {seed}"));
    let facts = [zones, seed, report.made_at.as_deref().map(written::moment)];
    html! {
        header {
            p.brand { span.fish aria-hidden="true" { (fish()) } "Shoal " span.muted { (report.kind.name()) } }
            h1 { (title) }
            p.muted { (how) @for fact in facts.iter().flatten() { " · " (fact) } }
            (verdict(report))
        }
    }
}

fn fish() -> Markup {
    html! {
        svg viewBox="0 0 34 20" width="34" height="20" {
            path d="M2 5q5-5 11 0q-6 5-11 0l-2-3v6zM12 14q5-5 11 0q-6 5-11 0l-2-3v6zM21 7q5-5 11 0q-6 5-11 0l-2-3v6z" {}
        }
    }
}

fn verdict(report: &Report) -> Markup {
    let held = report.gates.iter().filter(|gate| gate.held).count();
    let all = report.gates.len();
    let gates = match all {
        0 => String::new(),
        all if held == all => format!(": all {all} gates hold"),
        all => format!(": {} of {all} gates broken", all - held),
    };
    let lost = report.failed_agents.filter(|lost| *lost > 0);
    let wrong = report.wrong_bytes.filter(|wrong| *wrong > 0);
    html! {
        @if report.passed() {
            p.verdict.good { (tables::tick(true)) " passed" (gates) }
        } @else if report.is_unjudged() && held == all && lost.is_none() && wrong.is_none() {
            p.verdict.bad { (tables::tick(false)) " not judged: the machine was the limit" }
        } @else {
            p.verdict.bad {
                (tables::tick(false)) " failed" (gates)
                @if let Some(lost) = lost { ", " (written::count(lost as f64)) " agents did not finish" }
                @if let Some(wrong) = wrong { ", " (written::count(wrong as f64)) " wrong bytes reached a client" }
            }
        }
    }
}

fn headline(report: &Report) -> Markup {
    let tile = |key: &str, name: &'static str, says: &'static str| {
        let key = KEYS.iter().find(|known| known.name == key)?;
        let value = (key.of)(report)?;
        let text = match key.unit {
            Unit::CpuSecsPerGib => format!("{} s", written::digits(value)),
            _ => written::figure(Some(value), key.unit),
        };
        Some(html! { div.tile { dt { (name) } dd { b { (text) } span.muted { (says) } } } })
    };
    let tiles = [
        tile(
            "makespan_over_bound",
            "makespan over the bound",
            "1 is what the links allow",
        ),
        tile(
            "makespan_over_goodput_bound",
            "over the bound at goodput",
            "what QUIC can carry here",
        ),
        tile("p99_s", "99 of 100 agents done", "from their own wish"),
        tile("ttfb_p99_s", "first byte, 99 of 100", "at the client"),
        tile("origin_copies", "copies left the origin", "1 is the least"),
        tile(
            "upstream_copies",
            "copies came from upstream",
            "1 is the least",
        ),
        tile(
            "cross_zone_copies",
            "copies crossed zones",
            "over all zones",
        )
        .filter(|_| report.zones > 1),
        tile("duplicate_ratio", "bytes of no use", "of all that arrived"),
        tile("cpu_s_per_gib", "CPU time", "per GiB delivered"),
        tile("rss_max_bytes", "memory, at most", "of one process"),
    ];
    html! {
        section.headline aria-label="Headline figures" {
            (finish::against_bound(report).unwrap_or_default())
            dl.tiles { @for tile in tiles.into_iter().flatten() { (tile) } }
        }
    }
}

fn notes(report: &Report) -> Markup {
    html! {
        section.notes aria-label="Notes" {
            h2 { "Before you believe a figure" }
            ul { @for note in &report.notes { li { (note) } } }
        }
    }
}
