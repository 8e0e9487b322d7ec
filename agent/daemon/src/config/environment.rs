//! Environment variables as a layer over the file: `SHOAL_` + section + key, in capitals.
//!
//! Which variables exist follows from the outline of the configuration type. A variable that begins like one of
//! ours and is none is refused as a likely mistake; one that only shares the prefix is left alone, because the
//! environment, unlike the file, belongs to others too.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{self, ConfigError, Place};
use super::schema::Shape;

const PREFIX: &str = "SHOAL_";

/// Read by the argument parser, not by the configuration.
const ARGUMENTS: [&str; 2] = ["SHOAL_CONFIG", "SHOAL_LOG"];

/// The process's environment; a variable that is not UTF-8 cannot be ours and is left out.
pub fn process_environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// The variables that are ours, each with its place in the configuration.
pub(super) struct Overrides<'s> {
    entries: Vec<Override<'s>>,
}

struct Override<'s> {
    variable: String,
    value: String,
    path: Vec<&'static str>,
    shape: &'s Shape,
}

impl<'s> Overrides<'s> {
    pub(super) fn collect(
        shape: &'s Shape,
        env: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let known: Vec<(String, Vec<&'static str>, &Shape)> = shape
            .keys()
            .into_iter()
            .map(|(path, leaf)| (variable_of(&path), path, leaf))
            .collect();
        let mut entries = Vec::new();
        for (variable, value) in env.filter(|(name, _)| name.starts_with(PREFIX)) {
            if ARGUMENTS.contains(&variable.as_str()) {
                continue;
            }
            if let Some((_, path, leaf)) = known.iter().find(|(name, ..)| *name == variable) {
                entries.push(Override {
                    variable,
                    value,
                    path: path.clone(),
                    shape: leaf,
                });
            } else if !is_service_link(&variable, &value)
                && is_likely_ours(&variable, shape, &known)
            {
                let names = known.iter().map(|(name, ..)| name.as_str());
                return Err(ConfigError::UnknownVariable {
                    hint: error::hint(&variable, names),
                    variable,
                });
            }
        }
        entries.sort_by(|a, b| a.variable.cmp(&b.variable));
        Ok(Self { entries })
    }

    /// Writes each value into the table. Its span points past the end of the file, at the number of the variable,
    /// so that a later error tells which one it was.
    pub(super) fn apply<'i>(
        &'i self,
        table: &mut DeTable<'i>,
        file_bytes: usize,
    ) -> Result<(), ConfigError> {
        for (number, entry) in self.entries.iter().enumerate() {
            let span = marker(number, file_bytes);
            let value = entry
                .shape
                .value_of(&entry.value, &span)
                .map_err(|reason| ConfigError::Value {
                    place: Place::Variable(entry.variable.clone()),
                    reason,
                })?;
            insert(table, &entry.path, value, &span);
        }
        Ok(())
    }

    /// The variable that a marked span stands for.
    pub(super) fn variable_at(&self, span: &Range<usize>, file_bytes: usize) -> Option<String> {
        let number = span.start.checked_sub(file_bytes + 1)?;
        Some(self.entries.get(number)?.variable.clone())
    }
}

fn marker(number: usize, file_bytes: usize) -> Range<usize> {
    let at = file_bytes + 1 + number;
    at..at
}

fn variable_of(path: &[&str]) -> String {
    let name = path.join("_").replace(['-', '.'], "_");
    format!("{PREFIX}{}", name.to_ascii_uppercase())
}

/// A mistake if it names one of our sections, or is nearly one of our variables.
fn is_likely_ours(
    variable: &str,
    shape: &Shape,
    known: &[(String, Vec<&'static str>, &Shape)],
) -> bool {
    let Shape::Table(fields) = shape else {
        return false;
    };
    let in_section = fields.iter().any(|(name, inner)| {
        matches!(inner, Shape::Table(_))
            && variable.starts_with(&format!("{}_", variable_of(&[name])))
    });
    in_section || error::nearest(variable, known.iter().map(|(name, ..)| name.as_str())).is_some()
}

/// Kubernetes describes each Service of the namespace to each container in variables named after it.
fn is_service_link(variable: &str, value: &str) -> bool {
    let port_of = variable
        .split_once("_PORT_")
        .is_some_and(|(_, rest)| rest.starts_with(|first: char| first.is_ascii_digit()));
    variable.ends_with("_SERVICE_HOST")
        || variable.contains("_SERVICE_PORT")
        || port_of
        || (variable.ends_with("_PORT") && value.contains("://"))
}

impl Shape {
    /// The TOML value that a variable's text stands for.
    fn value_of<'i>(
        &self,
        text: &'i str,
        span: &Range<usize>,
    ) -> Result<Spanned<DeValue<'i>>, String> {
        let text = text.trim();
        let value = match self {
            Self::Flag => DeValue::Boolean(
                text.parse()
                    .map_err(|_| format!("`{text}` is neither true nor false"))?,
            ),
            Self::Number => parse(text)?,
            Self::Text => DeValue::String(text.into()),
            Self::Map | Self::Table(_) => parse(text)?,
            Self::List(_) if text.starts_with('[') => parse(text)?,
            Self::List(item) => {
                let items = text
                    .split(',')
                    .map(str::trim)
                    .filter(|part| !part.is_empty());
                let items: Result<Vec<_>, _> =
                    items.map(|part| item.value_of(part, span)).collect();
                DeValue::Array(items?.into_iter().collect())
            }
        };
        Ok(Spanned::new(span.clone(), respan(value, span)))
    }
}

fn parse(text: &str) -> Result<DeValue<'_>, String> {
    DeValue::parse(text)
        .map(Spanned::into_inner)
        .map_err(|error| format!("`{text}`: {}", error::one_line(error.message())))
}

/// Nested values were parsed by themselves and point into the variable's text: point them at its number.
fn respan<'i>(value: DeValue<'i>, span: &Range<usize>) -> DeValue<'i> {
    let mark =
        |inner: Spanned<DeValue<'i>>| Spanned::new(span.clone(), respan(inner.into_inner(), span));
    match value {
        DeValue::Array(items) => DeValue::Array(items.into_iter().map(mark).collect()),
        DeValue::Table(table) => DeValue::Table(
            table
                .into_iter()
                .map(|(key, inner)| (Spanned::new(span.clone(), key.into_inner()), mark(inner)))
                .collect(),
        ),
        plain => plain,
    }
}

fn insert<'i>(
    table: &mut DeTable<'i>,
    path: &[&'static str],
    value: Spanned<DeValue<'i>>,
    span: &Range<usize>,
) {
    let Some((name, rest)) = path.split_first() else {
        return;
    };
    if rest.is_empty() {
        table.remove(*name);
        table.insert(Spanned::new(span.clone(), (*name).into()), value);
        return;
    }
    if !table
        .get(*name)
        .is_some_and(|entry| entry.get_ref().is_table())
    {
        let empty = Spanned::new(span.clone(), DeValue::Table(DeTable::new()));
        table.insert(Spanned::new(span.clone(), (*name).into()), empty);
    }
    if let Some(DeValue::Table(inner)) = table.get_mut(*name).map(Spanned::get_mut) {
        insert(inner, rest, value, span);
    }
}
