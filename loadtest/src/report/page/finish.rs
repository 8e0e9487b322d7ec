//! When the agents were done: the share that had finished, over time, against the bound.

use maud::{Markup, html};

use super::axis::Axis;
use super::figure;
use super::plot::{Mark, Plot, line, percent, tips};
use crate::report::{Report, finished, percentile, written};

/// Points of the line; more agents than that lie closer than a pixel.
const POINTS_MAX: usize = 1000;
/// Columns that tell their numbers.
const TIPS: usize = 80;
/// Dots are drawn for each agent up to this many.
const DOTS_MAX: usize = 64;

pub(super) fn render(report: &Report) -> Option<Markup> {
    let took = finished(&report.agent_s);
    let (first, last) = (*took.first()?, *took.last()?);
    let all = report.agent_s.len();
    let bounds = bounds(report);
    let ends = bounds.iter().map(|mark| mark.at).chain([first, last]);
    let (low, high) = ends.fold((f64::INFINITY, 0.0f64), |(low, high), at| {
        (low.min(at), high.max(at))
    });
    // All close together: look closer, and say so.
    let room = (high - low).max(high * 0.02) * 0.08;
    let from = if low > high * 0.6 { low - room } else { 0.0 };
    let x = Axis::secs(from, high + room, 6);
    let share = |at: f64| 100.0 * took.partition_point(|took| *took <= at) as f64 / all as f64;
    let drawing = html! {
        path.under d={ (steps(&took, all, &x)) "L1000 1000Z" } {}
        path.line.peer d=(steps(&took, all, &x)) {}
        (tips(TIPS, |at| {
            let at = x.from() + (x.to() - x.from()) * at / 100.0;
            Some(format!("{}: {} % of the agents are done", written::secs(at), written::digits(share(at))))
        }))
    };
    let desc = format!(
        "{} of {all} agents finished, the first after {}, the last after {}.{}",
        took.len(),
        written::secs(first),
        written::secs(last),
        bounds
            .iter()
            .map(|mark| format!(" {}.", mark.text))
            .collect::<String>()
    );
    let mut caption = "Share of the agents that have the whole blob, checked.".to_owned();
    if from > 0.0 {
        caption.push_str(" The axis does not begin at zero.");
    }
    let plot = Plot {
        id: "finish",
        title: "When the agents were done",
        desc,
        size: "tall",
        x,
        y: Some(Axis::new(0.0, 100.0, 4, "% of agents")),
        marks: bounds,
        drawing,
        side: Vec::new(),
    };
    Some(figure(
        "When the agents were done",
        &caption,
        &plot.render(),
        &html! { (numbers(&took)) @if all <= DOTS_MAX { (each(report)) } },
    ))
}

/// The lines of two runs in one frame.
pub(super) fn both(a: &Report, b: &Report) -> Option<Markup> {
    let (took_a, took_b) = (finished(&a.agent_s), finished(&b.agent_s));
    let ends = [
        took_a.first()?,
        took_a.last()?,
        took_b.first()?,
        took_b.last()?,
    ];
    let (low, high) = ends
        .into_iter()
        .fold((f64::INFINITY, 0.0f64), |(low, high), at| {
            (low.min(*at), high.max(*at))
        });
    let room = (high - low).max(high * 0.02) * 0.08;
    let from = if low > high * 0.6 { low - room } else { 0.0 };
    let x = Axis::secs(from, high + room, 6);
    let drawing = html! {
        path.line.run-a d=(steps(&took_a, a.agent_s.len(), &x)) {}
        path.line.run-b d=(steps(&took_b, b.agent_s.len(), &x)) {}
    };
    let said = |took: &[f64]| percentile(took, 99).map_or_else(String::new, written::secs);
    let plot = Plot {
        id: "both",
        title: "When the agents of both runs were done",
        desc: format!(
            "99 of 100 were done after {} in A and {} in B.",
            said(&took_a),
            said(&took_b)
        ),
        size: "tall",
        x,
        y: Some(Axis::new(0.0, 100.0, 4, "% of agents")),
        marks: Vec::new(),
        drawing,
        side: Vec::new(),
    };
    Some(plot.render())
}

fn bounds(report: &Report) -> Vec<Mark> {
    let goodput = report
        .goodput_bits_per_sec
        .and_then(|rate| report.bound_at(rate));
    let mark = |at: Option<f64>, what: &str, class| {
        at.map(|at| Mark {
            at,
            text: format!("{what} {}", written::secs(at)),
            class,
        })
    };
    [
        mark(report.bound_s, "bound", "bound"),
        mark(goodput, "bound at QUIC’s goodput", "goodput"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn steps(took: &[f64], all: usize, x: &Axis) -> String {
    let apart = took.len().div_ceil(POINTS_MAX).max(1);
    let points = (0..took.len())
        .filter(|at| (at + 1).is_multiple_of(apart) || at + 1 == took.len())
        .map(|at| (x.place(took[at]), 100.0 * (at + 1) as f64 / all as f64));
    let mut before = 0.0;
    let corners = points.flat_map(|(at, share)| {
        let low = std::mem::replace(&mut before, share);
        [(at, low), (at, share)]
    });
    let end = 100.0 * took.len() as f64 / all as f64;
    line(
        [(0.0, 0.0)]
            .into_iter()
            .chain(corners)
            .chain([(100.0, end)]),
    )
}

fn numbers(took: &[f64]) -> Markup {
    html! {
        table {
            caption { "Seconds that agents took" }
            thead { tr { th scope="col" { "so many were done" } th scope="col" { "after" } } }
            tbody {
                @for at in [1, 10, 25, 50, 75, 90, 95, 99, 100] {
                    @if let Some(took) = percentile(took, at) {
                        tr { th scope="row" { (at) " %" } td { (written::secs(took)) } }
                    }
                }
            }
        }
    }
}

fn each(report: &Report) -> Markup {
    html! {
        table {
            caption { "Each agent" }
            thead { tr { th scope="col" { "agent" } th scope="col" { "done after" } } }
            tbody {
                @for (at, took) in report.agent_s.iter().enumerate() {
                    tr {
                        th scope="row" { (at + 1) }
                        td { @if let Some(took) = took { (written::secs(*took)) } @else { "not at all" } }
                    }
                }
            }
        }
    }
}

/// A bar that is as long as the makespan, with the bound in it.
pub(super) fn against_bound(report: &Report) -> Option<Markup> {
    let (makespan, bound) = (report.makespan_s?, report.bound_s?);
    let whole = makespan.max(bound);
    if !(whole > 0.0 && whole.is_finite()) {
        return None;
    }
    let over = (makespan - bound) / bound * 100.0;
    let text = if over >= 0.0 {
        format!(
            "{} % above the bound: what the links allow at best",
            written::digits(over)
        )
    } else {
        format!("{} % below the bound", written::digits(-over))
    };
    Some(html! {
        div.race {
            div.race-row {
                span.race-name { "bound" }
                div.race-track { div.race-bar.limit style={ "width:" (percent(bound / whole * 100.0)) } {} }
                span.race-value { (written::secs(bound)) }
            }
            div.race-row {
                span.race-name { "last agent done" }
                div.race-track { div.race-bar.peer style={ "width:" (percent(makespan / whole * 100.0)) } {} }
                span.race-value { (written::secs(makespan)) }
            }
            p.race-says { (text) }
        }
    })
}
