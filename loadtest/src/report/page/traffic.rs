//! Where the bytes came from, and how many copies left the origin, upstream and the zones on the way.

use maud::{Markup, html};

use super::axis::Axis;
use super::figure;
use super::plot::{Plot, line, percent, tips};
use crate::report::{Copies, Report, written};

/// Moments in the table, and columns that tell their numbers.
const MOMENTS: usize = 11;
const TIPS: usize = 60;

/// A bar for each source, all on one scale.
pub(super) fn sources(report: &Report) -> Option<Markup> {
    let bytes = report.bytes_by_source?;
    let rows = [
        ("cache", "from the node’s own store", bytes.cache),
        ("peer", "from other agents", bytes.peer),
        ("origin", "from the origin", bytes.origin),
        ("upstream", "from upstream, into the origin", bytes.upstream),
    ];
    let most = rows
        .iter()
        .map(|row| row.2)
        .max()
        .filter(|most| *most > 0)?;
    let copies = |bytes: u64| {
        let copies = bytes as f64 / report.blob_bytes.max(1) as f64;
        format!("{} copies", written::digits(copies))
    };
    let drawn = html! {
        dl.bars {
            @for (class, name, count) in rows {
                dt { (name) }
                dd {
                    div.bar-track { div.{ "bar " (class) } style={ "width:" (percent(count as f64 / most as f64 * 100.0)) } {} }
                    span.bar-value {
                        (written::bytes(count as f64))
                        @if report.blob_bytes > 0 { span.muted { " = " (copies(count)) } }
                    }
                }
            }
        }
    };
    let caption = "Bytes that arrived, by where they came from. All bars have one scale.";
    Some(figure(
        "Where the bytes came from",
        caption,
        &drawn,
        &html! {},
    ))
}

pub(super) fn copies(report: &Report) -> Option<Markup> {
    let copies = report.copies.as_ref()?;
    let lines: Vec<(&str, &str, &[f64])> = lines(copies);
    let last = *copies.at_s.last()?;
    if lines.is_empty() || last <= 0.0 {
        return None;
    }
    let most = lines
        .iter()
        .flat_map(|(_, _, list)| list.iter().copied())
        .fold(1.0, f64::max);
    let x = Axis::secs(0.0, last, 6);
    let y = Axis::new(0.0, most * 1.1, 4, "copies of the blob");
    let points = |list: &[f64]| {
        let at = copies.at_s.iter().zip(list);
        line(
            at.map(|(at, value)| (x.place(*at), y.place(*value)))
                .collect::<Vec<_>>()
                .into_iter(),
        )
    };
    let at = |share: f64| {
        let secs = last * share / 100.0;
        let sample = copies
            .at_s
            .partition_point(|at| *at < secs)
            .min(copies.at_s.len() - 1);
        let each = lines
            .iter()
            .map(|(_, name, list)| format!("{name} {}", written::digits(list[sample])));
        Some(format!(
            "{}: {}",
            written::secs(secs),
            each.collect::<Vec<_>>().join(", ")
        ))
    };
    let drawing = html! {
        path.one-copy d=(line([(0.0, y.place(1.0)), (100.0, y.place(1.0))].into_iter())) {}
        @for (class, _, list) in &lines { path.{ "line " (class) } d=(points(list)) {} }
        (tips(TIPS, at))
    };
    let ends = lines
        .iter()
        .map(|(_, name, list)| format!("{name} {}", written::digits(*list.last().unwrap_or(&0.0))));
    let title = "Copies that were sent, over time";
    let desc = format!("In the end: {}.", ends.collect::<Vec<_>>().join(", "));
    let legend = html! {
        ul.key { @for (class, name, list) in &lines {
            li { span.{ "swatch " (class) } {} (name) " " b { (written::digits(*list.last().unwrap_or(&0.0))) } }
        } }
    };
    let table = table(copies, &lines);
    let plot = Plot {
        id: "copies",
        title,
        desc,
        size: "mid",
        x: x.clone(),
        y: Some(y.clone()),
        marks: Vec::new(),
        drawing,
        side: Vec::new(),
    };
    let caption = "How many times the blob’s length has been sent. The dashed line is one copy, the least that can be.";
    Some(figure(
        title,
        caption,
        &html! { (legend) (plot.render()) },
        &table,
    ))
}

fn lines(copies: &Copies) -> Vec<(&'static str, &'static str, &[f64])> {
    [
        ("origin", "origin to agents", copies.origin.as_slice()),
        ("upstream", "upstream to origin", copies.upstream.as_slice()),
        ("zone", "between zones", copies.cross_zone.as_slice()),
    ]
    .into_iter()
    .filter(|(_, _, list)| !list.is_empty())
    .collect()
}

fn table(copies: &Copies, lines: &[(&str, &str, &[f64])]) -> Markup {
    let samples = copies.at_s.len();
    let moments = MOMENTS.min(samples);
    html! {
        table {
            caption { "Copies sent by then" }
            thead { tr { th scope="col" { "at" } @for (_, name, _) in lines { th scope="col" { (name) } } } }
            tbody {
                @for moment in 0..moments {
                    @let at = moment * (samples - 1) / (moments.max(2) - 1);
                    tr {
                        th scope="row" { (written::secs(copies.at_s[at])) }
                        @for (_, _, list) in lines { td { (written::digits(list[at])) } }
                    }
                }
            }
        }
    }
}
