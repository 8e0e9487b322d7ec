//! How busy the links were: a small picture each, what was sent above the line and what was taken below.

use maud::{Markup, html};

use super::axis::Axis;
use super::figure;
use super::plot::{Plot, line};
use crate::report::{LinkUse, Links, Report, written};

/// Points of a small picture; samples between them are averaged.
const POINTS_MAX: usize = 150;

pub(super) fn render(report: &Report) -> Option<Markup> {
    let links = report.links.as_ref()?;
    let last = *links.at_s.last()?;
    if links.rows.is_empty() || last <= 0.0 {
        return None;
    }
    let drawn = html! {
        ul.key {
            li { span.swatch.sends {} "sends" }
            li { span.swatch.takes {} "takes in" }
        }
        div.multiples {
            @for (at, row) in links.rows.iter().enumerate() { (small(at, row, links, last)) }
        }
    };
    let caption = "A picture a link, time to the right. Up: what it sends; down: what it takes in; the edges are the link’s rate.";
    Some(figure(
        "How busy the links were",
        caption,
        &drawn,
        &numbers(links),
    ))
}

fn small(at: usize, row: &LinkUse, links: &Links, last: f64) -> Markup {
    let most = |list: &[f64]| {
        list.iter()
            .copied()
            .filter(|it| it.is_finite())
            .fold(0.0, f64::max)
    };
    let top = row
        .bits_per_sec
        .filter(|rate| *rate > 0.0)
        .unwrap_or_else(|| most(&row.tx_bits_per_sec).max(most(&row.rx_bits_per_sec)));
    let y = Axis::new(-top.max(1.0), top.max(1.0), 1, "");
    let x = Axis::secs(0.0, last, 2);
    let area = |list: &[f64], sign: f64| {
        let points = thinned(&links.at_s, list);
        let ends = [(100.0, 50.0), (0.0, 50.0)];
        let line = line(
            points
                .into_iter()
                .map(|(at, rate)| (x.place(at), y.place(rate * sign)))
                .chain(ends),
        );
        format!("{line}Z")
    };
    let desc = told(row);
    let title = format!("{}: {desc}", row.name);
    let drawing = html! {
        path.sends d=(area(&row.tx_bits_per_sec, 1.0)) {}
        path.takes d=(area(&row.rx_bits_per_sec, -1.0)) {}
        path.middle d="M0 500H1000" {}
    };
    let plot = Plot {
        id: &format!("link-{at}"),
        title: &title,
        desc: desc.clone(),
        size: "small",
        x: x.clone(),
        y: None,
        marks: Vec::new(),
        drawing,
        side: Vec::new(),
    };
    html! {
        div.multiple {
            h4 { (row.name) }
            (plot.render())
            p.muted { (desc) }
        }
    }
}

/// Mean use of both ways.
fn told(row: &LinkUse) -> String {
    let mean = |list: &[f64]| list.iter().sum::<f64>() / list.len().max(1) as f64;
    let (sends, takes) = (mean(&row.tx_bits_per_sec), mean(&row.rx_bits_per_sec));
    let of = |rate: f64| match row.bits_per_sec {
        Some(whole) if whole > 0.0 => format!("{:.0} %", rate / whole * 100.0),
        _ => written::bits_per_sec(rate),
    };
    format!("sends {}, takes {}", of(sends), of(takes))
}

/// Means of neighbours, so many that a small picture can show them.
fn thinned(at_s: &[f64], list: &[f64]) -> Vec<(f64, f64)> {
    let together = list.len().div_ceil(POINTS_MAX).max(1);
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len().max(1) as f64;
    at_s.chunks(together)
        .zip(list.chunks(together))
        .map(|(at, rates)| (mean(at), mean(rates)))
        .collect()
}

fn numbers(links: &Links) -> Markup {
    let mean = |list: &[f64]| list.iter().sum::<f64>() / list.len().max(1) as f64;
    html! {
        table {
            caption { "Mean rate over the run" }
            thead { tr {
                th scope="col" { "link" } th scope="col" { "rate" } th scope="col" { "sends" } th scope="col" { "takes in" }
            } }
            tbody {
                @for row in &links.rows {
                    tr {
                        th scope="row" { (row.name) }
                        td { (row.bits_per_sec.map_or_else(|| "not limited".to_owned(), written::bits_per_sec)) }
                        td { (written::bits_per_sec(mean(&row.tx_bits_per_sec))) }
                        td { (written::bits_per_sec(mean(&row.rx_bits_per_sec))) }
                    }
                }
            }
        }
    }
}
