//! Who held how much when: a row an agent, time to the right, stronger where more is held.
//!
//! One path for each shade, its runs side by side: what an agent holds only grows, so a row is a few runs and not
//! hundreds of cells, and a page about 10,000 agents stays small.

use std::fmt::Write as _;

use maud::{Markup, html};

use super::axis::Axis;
use super::figure;
use super::plot::{Mark, Plot, per_mille};
use crate::report::{Progress, ProgressRow, Report, written};

/// Shades between nothing and everything.
const SHADES: usize = 11;
/// Rows that have room for their name.
const NAMED_MAX: usize = 32;
/// Moments in the table.
const MOMENTS: usize = 11;

pub(super) fn render(report: &Report) -> Option<Markup> {
    let progress = report.progress.as_ref()?;
    let last = *progress.at_s.last()?;
    let rows = progress.rows.len();
    if rows == 0 || last <= 0.0 {
        return None;
    }
    let x = Axis::secs(0.0, last, 6);
    let high = 1000.0 / rows as f64;
    let drawing = html! {
        @for (shade, path) in paths(progress, &x).iter().enumerate() {
            @if !path.is_empty() { path.{ "shade h" (shade) } d=(path) {} }
        }
        g.tips {
            @for (at, row) in progress.rows.iter().enumerate() {
                rect y=(format!("{:.2}", at as f64 * high)) width="1000" height=(format!("{high:.2}")) {
                    title { (tip(row, &progress.at_s)) }
                }
            }
        }
    };
    let named = rows <= NAMED_MAX;
    let middle = |at: usize| (at as f64 + 0.5) / rows as f64 * 100.0;
    let side = progress.rows.iter().enumerate();
    let side: Vec<(f64, String)> = side
        .filter(|(at, _)| named || *at == 0 || *at + 1 == rows)
        .map(|(at, row)| {
            // Of a row that many share, the outermost one is named.
            let name = if at == 0 {
                row.name.split(" … ").next()
            } else {
                row.name.rsplit(" … ").next()
            };
            (middle(at), name.unwrap_or_default().to_owned())
        })
        .collect();
    let marks = report.bound_s.map(|at| Mark {
        at,
        text: format!("bound {}", written::secs(at)),
        class: "bound",
    });
    let title = "Who held how much, when";
    let plot = Plot {
        id: "heat",
        title,
        desc: format!(
            "{rows} rows, from {} to {}; each fills from the left as its agents take pieces in.",
            progress.rows[0].name,
            progress.rows[rows - 1].name
        ),
        size: if rows <= 12 { "low" } else { "tall" },
        x,
        y: None,
        marks: marks.into_iter().collect(),
        drawing,
        side,
    };
    let merged = if progress.rows.iter().any(|row| row.name.contains('…')) {
        " Neighbours share a row, which shows their mean."
    } else {
        ""
    };
    let caption = format!(
        "A row an agent, time to the right, stronger where more of the blob is held.{merged}"
    );
    let drawn = html! { (legend()) (plot.render()) };
    Some(figure(title, &caption, &drawn, &numbers(progress)))
}

fn shade(percent: u8) -> usize {
    match percent {
        0 => 0,
        100.. => SHADES - 1,
        some => 1 + usize::from(some) * (SHADES - 2) / 100,
    }
}

/// A path for each shade; nothing held is the ground, and has none.
fn paths(progress: &Progress, x: &Axis) -> Vec<String> {
    let mut paths = vec![String::new(); SHADES];
    let rows = progress.rows.len() as f64;
    for (at, row) in progress.rows.iter().enumerate() {
        let top = per_mille(at as f64 / rows * 100.0);
        let bottom = per_mille((at + 1) as f64 / rows * 100.0);
        let mut begin = 0;
        for end in 1..=row.percent.len() {
            let here = shade(row.percent[begin]);
            if end < row.percent.len() && shade(row.percent[end]) == here {
                continue;
            }
            let place = |at: usize| {
                let secs = progress.at_s.get(at).copied();
                per_mille(secs.map_or(100.0, |secs| x.place(secs)))
            };
            let (left, right) = (place(begin), place(end));
            if here > 0 && left != right {
                // Writing into a String cannot fail.
                let _infallible = write!(paths[here], "M{left} {top}H{right}V{bottom}H{left}Z");
            }
            begin = end;
        }
    }
    paths
}

fn tip(row: &ProgressRow, at_s: &[f64]) -> String {
    let when = |percent: u8| {
        let at = row.percent.iter().position(|held| *held >= percent)?;
        Some(written::secs(*at_s.get(at)?))
    };
    let half = when(50).map_or_else(String::new, |at| format!(", half at {at}"));
    let whole = when(100).map_or_else(
        || format!(", {} % in the end", row.percent.last().unwrap_or(&0)),
        |at| format!(", all at {at}"),
    );
    format!("{}{half}{whole}", row.name)
}

fn legend() -> Markup {
    html! {
        div.legend aria-hidden="true" {
            span { "none" }
            svg.ramp viewBox="0 0 110 10" preserveAspectRatio="none" {
                @for shade in 0..SHADES {
                    rect.{ "shade h" (shade) } x=(shade * 10) width="10" height="10" {}
                }
            }
            span { "all of the blob" }
        }
    }
}

fn numbers(progress: &Progress) -> Markup {
    let samples = progress.at_s.len();
    let mean = |at: usize| {
        let sum: usize = progress
            .rows
            .iter()
            .map(|row| usize::from(row.percent[at]))
            .sum();
        sum as f64 / progress.rows.len() as f64
    };
    html! {
        table {
            caption { "Share of the blob held, mean of all rows" }
            thead { tr { th scope="col" { "at" } th scope="col" { "held" } } }
            tbody {
                @for moment in 0..MOMENTS.min(samples) {
                    @let at = moment * (samples - 1) / (MOMENTS.min(samples).max(2) - 1);
                    tr { th scope="row" { (written::secs(progress.at_s[at])) } td { (written::digits(mean(at))) " %" } }
                }
            }
        }
    }
}
