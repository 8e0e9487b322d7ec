//! Reports as files: a key a line, so that `grep` and `diff` are of use; read back with suspicion.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde::Serialize as _;
use serde_json::ser::{CompactFormatter, Formatter, Serializer};

use super::{FORMAT, Report};

/// A report on 100,000 agents takes 4 MiB; what is far larger is none.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Why a file was not taken for a report.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("cannot read {}: {source}; name a file that --json wrote", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "{} is not a report: {why}; write one with: shoal-loadtest simulate --json FILE",
        path.display()
    )]
    NotAReport { path: PathBuf, why: String },
}

/// Reads and bounds a report.
///
/// # Errors
/// The file cannot be read, is far too large, or says something else than a report does.
pub fn read(path: &Path) -> Result<Report, ReadError> {
    let io = |source| ReadError::Io {
        path: path.to_owned(),
        source,
    };
    let mut text = Vec::new();
    let file = std::fs::File::open(path).map_err(io)?;
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut text)
        .map_err(io)?;
    let why = if text.len() as u64 > FILE_BYTES_MAX {
        format!("it is larger than {} MiB", FILE_BYTES_MAX >> 20)
    } else {
        match parse(&text) {
            Ok(report) => return Ok(report),
            Err(why) => why,
        }
    };
    Err(ReadError::NotAReport {
        path: path.to_owned(),
        why,
    })
}

fn parse(text: &[u8]) -> Result<Report, String> {
    let value: serde_json::Value =
        serde_json::from_slice(text).map_err(|error| format!("it is no JSON ({error})"))?;
    match value.get("format").and_then(serde_json::Value::as_str) {
        Some(FORMAT) => {}
        Some(other) => {
            return Err(format!("its format is {other:?}, this is for {FORMAT:?}"));
        }
        None => return Err(format!("it has no \"format\": {FORMAT:?}")),
    }
    let report: Report =
        serde_json::from_value(value).map_err(|error| format!("a key is wrong ({error})"))?;
    Ok(report.bounded())
}

/// The file's text.
pub(super) fn text(report: &Report) -> Vec<u8> {
    let mut text = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut text, KeyALine::default());
    report
        .serialize(&mut serializer)
        .expect("a report has string keys only, and memory takes every write");
    text.push(b'\n');
    text
}

/// Breaks lines between the outermost keys and nowhere else.
#[derive(Default)]
struct KeyALine {
    depth: usize,
}

impl Formatter for KeyALine {
    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.depth += 1;
        CompactFormatter.begin_object(writer)
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.depth -= 1;
        if self.depth == 0 {
            writer.write_all(b"\n")?;
        }
        CompactFormatter.end_object(writer)
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        CompactFormatter.begin_object_key(writer, first)?;
        if self.depth == 1 {
            writer.write_all(b"\n ")?;
        }
        Ok(())
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        CompactFormatter.begin_object_value(writer)?;
        if self.depth == 1 {
            writer.write_all(b" ")?;
        }
        Ok(())
    }
}
