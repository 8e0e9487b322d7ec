//! The frame of every plot: a drawing that stretches, and labels that do not.
//!
//! The drawing is an SVG of 1000 × 1000 that takes whatever room the page has; its lines keep their width. Labels are
//! text of the page at per-cent places, so that they are as large on a phone as on a wall. Readers that see no
//! drawing have its title, its description and the table below it.

use std::fmt::Write as _;

use maud::{Markup, html};

use super::axis::Axis;

/// A plot to be.
pub(super) struct Plot<'a> {
    /// Names it within the page.
    pub(super) id: &'a str,
    pub(super) title: &'a str,
    /// What it shows, in words and numbers.
    pub(super) desc: String,
    /// A class that sets its height.
    pub(super) size: &'a str,
    pub(super) x: Axis,
    pub(super) y: Option<Axis>,
    /// Upright lines with a label.
    pub(super) marks: Vec<Mark>,
    pub(super) drawing: Markup,
    /// Labels beside the drawing: per cent from the top, text.
    pub(super) side: Vec<(f64, String)>,
}

/// A value worth a line.
pub(super) struct Mark {
    pub(super) at: f64,
    pub(super) text: String,
    pub(super) class: &'static str,
}

impl Plot<'_> {
    pub(super) fn render(self) -> Markup {
        let marks: Vec<&Mark> = self
            .marks
            .iter()
            .filter(|mark| self.x.holds(mark.at))
            .collect();
        let (title_id, desc_id) = (format!("{}-title", self.id), format!("{}-desc", self.id));
        html! {
            div.plot.has-side[!self.side.is_empty()] {
                div.over aria-hidden="true" {
                    @if let Some(y) = &self.y { span.y-name { (y.name) } }
                    @for mark in &marks { (label(mark, self.x.place(mark.at))) }
                }
                div.{ "area " (self.size) } {
                    svg viewBox="0 0 1000 1000" preserveAspectRatio="none" role="img"
                        aria-labelledby={ (title_id) " " (desc_id) } {
                        title id=(title_id) { (self.title) }
                        desc id=(desc_id) { (self.desc) }
                        @for y in self.y.iter().flat_map(|y| y.ticks.iter().map(|tick| y.place(tick.0))) {
                            path.grid d={ "M0 " (per_mille(100.0 - y)) "H1000" } {}
                        }
                        @for (at, _) in &self.x.ticks {
                            path.grid d={ "M" (per_mille(self.x.place(*at))) " 0V1000" } {}
                        }
                        (self.drawing)
                        @for mark in &marks {
                            path.{ "mark " (mark.class) } d={ "M" (per_mille(self.x.place(mark.at))) " 0V1000" } {
                                title { (mark.text) }
                            }
                        }
                    }
                    @if let Some(y) = &self.y {
                        @for (at, text) in &y.ticks {
                            span.tick.y aria-hidden="true" style={ "bottom:" (percent(y.place(*at))) } { (text) }
                        }
                    }
                    @for (top, text) in &self.side {
                        span.tick.side aria-hidden="true" style={ "top:" (percent(*top)) } title=(text) { (text) }
                    }
                    @for (at, text) in &self.x.ticks {
                        span.tick.x aria-hidden="true" style={ "left:" (percent(self.x.place(*at))) } { (text) }
                    }
                }
                div.x-name aria-hidden="true" { (self.x.name) }
            }
        }
    }
}

/// A mark's label stands on the side of its line where there is room.
fn label(mark: &Mark, place: f64) -> Markup {
    let (side, at) = if place > 50.0 {
        ("right", 100.0 - place)
    } else {
        ("left", place)
    };
    html! {
        span.{ "mark-name " (side) " " (mark.class) } style={ (side) ":" (percent(at)) } { (mark.text) }
    }
}

/// Of the drawing's 1000, from per cent.
pub(super) fn per_mille(percent: f64) -> String {
    let text = format!("{:.1}", percent * 10.0);
    text.strip_suffix(".0").unwrap_or(&text).to_owned()
}

pub(super) fn percent(percent: f64) -> String {
    format!("{percent:.2}%")
}

/// A line through points given in per cent from the left and from the bottom; points that fall together are one.
pub(super) fn line(points: impl Iterator<Item = (f64, f64)>) -> String {
    let mut path = String::new();
    let mut last = String::new();
    for (x, y) in points {
        let point = format!("{} {}", per_mille(x), per_mille(100.0 - y));
        if point != last {
            let letter = if path.is_empty() { 'M' } else { 'L' };
            // Writing into a String cannot fail.
            let _infallible = write!(path, "{letter}{point}");
            last = point;
        }
    }
    path
}

/// Invisible columns that tell their text when pointed at.
pub(super) fn tips(count: usize, text: impl Fn(f64) -> Option<String>) -> Markup {
    let wide = 1000.0 / count.max(1) as f64;
    html! {
        g.tips {
            @for at in 0..count {
                @let middle = (at as f64 + 0.5) / count as f64 * 100.0;
                @if let Some(text) = text(middle) {
                    rect x=(format!("{:.1}", at as f64 * wide)) width=(format!("{wide:.1}")) height="1000" {
                        title { (text) }
                    }
                }
            }
        }
    }
}
