//! Printing: tab-separated lines, tables and exact bytes for people, one JSON object per line for programs.

use std::fmt::Display;
use std::io::Write;

use bytes::Bytes;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use crate::encoding::{KeyEncoding, base64};
use crate::failure::Failure;

/// Most entries of a scan printed between two flushes; there are fewer when no more have arrived, so that output keeps
/// pace with the pages.
pub(crate) const FLUSH_ENTRIES_MAX: usize = 1024;

/// Makes a terminal start again at its first line.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// For people or for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people
    Text,
    /// For programs: one object per line
    Json,
}

/// Something that is printed as one line.
pub(crate) trait Record: Serialize {
    /// What its columns hold, without tabs and line feeds.
    fn cells(&self, keys: KeyEncoding) -> Vec<String>;
}

/// A record that is printed under headings.
pub(crate) trait Row: Record {
    /// One for each cell.
    const HEADINGS: &[&str];
}

/// A cell that may have nothing to show.
pub(crate) fn cell(shown: Option<String>) -> String {
    shown.unwrap_or_else(|| "-".to_owned())
}

/// Standard output, or what stands in for it in a test.
pub(crate) struct Output<'a> {
    format: Format,
    keys: KeyEncoding,
    is_terminal: bool,
    writer: &'a mut dyn Write,
}

impl<'a> Output<'a> {
    pub(crate) fn new(
        format: Format,
        keys: KeyEncoding,
        is_terminal: bool,
        writer: &'a mut dyn Write,
    ) -> Self {
        Self {
            format,
            keys,
            is_terminal,
            writer,
        }
    }

    /// The same output, of one command that has its own format.
    pub(crate) fn formatted(&mut self, format: Format, keys: KeyEncoding) -> Output<'_> {
        Output {
            format,
            keys,
            is_terminal: self.is_terminal,
            writer: &mut *self.writer,
        }
    }

    /// Whether what is printed is read by a program.
    pub(crate) fn is_for_programs(&self) -> bool {
        self.format == Format::Json
    }

    /// Says that a write was done, when there is nothing else to say.
    pub(crate) fn done(&mut self) -> Result<(), Failure> {
        match self.format {
            Format::Text => Ok(writeln!(self.writer, "OK")?),
            Format::Json => self.object(&json!({ "ok": true })),
        }
    }

    /// One line: the cells with tabs between them, or an object.
    pub(crate) fn record<R: Record>(&mut self, record: &R) -> Result<(), Failure> {
        match self.format {
            Format::Text => Ok(writeln!(
                self.writer,
                "{}",
                record.cells(self.keys).join("\t")
            )?),
            Format::Json => self.object(record),
        }
    }

    /// Headings and aligned columns, or one object per line.
    pub(crate) fn table<R: Row>(&mut self, records: &[R]) -> Result<(), Failure> {
        if self.format == Format::Json {
            return records.iter().try_for_each(|record| self.object(record));
        }
        let headings = R::HEADINGS.iter();
        let headings = headings.map(|&heading| heading.to_owned()).collect();
        let lines: Vec<Vec<String>> = std::iter::once(headings)
            .chain(records.iter().map(|record| record.cells(self.keys)))
            .collect();
        Ok(self.writer.write_all(aligned(&lines).as_bytes())?)
    }

    /// As text, prints exactly the bytes of `value`, so that `> file` is a copy of it. A terminal also gets a line feed, for the prompt.
    pub(crate) fn value<R: Record>(&mut self, value: &[u8], record: &R) -> Result<(), Failure> {
        if self.format == Format::Json {
            return self.object(record);
        }
        self.writer.write_all(value)?;
        if self.is_terminal && !value.ends_with(b"\n") {
            self.writer.write_all(b"\n")?;
        }
        Ok(())
    }

    /// Something that has come to pass, at once: in text as it displays itself.
    pub(crate) fn event<E: Serialize + Display>(&mut self, event: &E) -> Result<(), Failure> {
        match self.format {
            Format::Text => writeln!(self.writer, "{event}")?,
            Format::Json => self.object(event)?,
        }
        self.flush()
    }

    /// An [`event`](Self::event) that replaces the previous one if the output is a terminal. Otherwise an empty line precedes it.
    pub(crate) fn redraw<E: Serialize + Display>(&mut self, event: &E) -> Result<(), Failure> {
        if self.format == Format::Text {
            let before = if self.is_terminal { CLEAR } else { "\n" };
            self.writer.write_all(before.as_bytes())?;
        }
        self.event(event)
    }

    /// The writer, for bytes that are the same in every format.
    pub(crate) fn writer(&mut self) -> &mut dyn Write {
        self.writer
    }

    /// Writes one line of text, in every format.
    pub(crate) fn line(&mut self, text: &str) -> Result<(), Failure> {
        Ok(writeln!(self.writer, "{text}")?)
    }

    /// Writes one JSON object on one line, in every format.
    pub(crate) fn object(&mut self, object: &impl Serialize) -> Result<(), Failure> {
        serde_json::to_writer(&mut self.writer, object).map_err(std::io::Error::from)?;
        Ok(self.writer.write_all(b"\n")?)
    }

    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.writer.flush()?)
    }
}

/// Lines whose cells are padded to columns.
pub(crate) fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell: &String| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).filter_map(width).collect();
    let mut text = String::new();
    for line in lines {
        let padded = line.iter().zip(&widths);
        let padded: Vec<String> = padded
            .map(|(cell, &width)| format!("{cell:width$}"))
            .collect();
        text.push_str(padded.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Bytes in JSON: a string, or `{"base64": "…"}` when they are not UTF-8.
pub(crate) fn json_bytes(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => Value::from(text),
        Err(_) => json!({ "base64": base64(bytes) }),
    }
}

/// [`json_bytes`] for `#[serde(serialize_with)]`.
pub(crate) fn serialize_bytes<S: Serializer>(
    bytes: &impl AsRef<[u8]>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    json_bytes(bytes.as_ref()).serialize(serializer)
}

/// [`serialize_bytes`] for a value that may not have been asked for.
pub(crate) fn serialize_value<S: Serializer>(
    value: &Option<Bytes>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    value.as_deref().map(json_bytes).serialize(serializer)
}

#[cfg(test)]
pub(crate) fn printed(format: Format, print: impl FnOnce(&mut Output<'_>)) -> String {
    let mut bytes = Vec::new();
    print(&mut Output::new(
        format,
        KeyEncoding::Text,
        false,
        &mut bytes,
    ));
    String::from_utf8(bytes).expect("text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Named {
        name: &'static str,
        #[serde(serialize_with = "serialize_bytes")]
        bytes: &'static [u8],
    }

    impl Row for Named {
        const HEADINGS: &[&str] = &["NAME", "BYTES"];
    }

    impl Record for Named {
        fn cells(&self, keys: KeyEncoding) -> Vec<String> {
            vec![self.name.to_owned(), keys.encode(self.bytes)]
        }
    }

    const RECORDS: [Named; 2] = [
        Named {
            name: "readable",
            bytes: b"v1",
        },
        Named {
            name: "not",
            bytes: b"\xff\t",
        },
    ];

    #[test]
    fn records_are_tab_separated_lines_or_json_objects() {
        let print = |output: &mut Output<'_>| {
            for record in &RECORDS {
                output.record(record).expect("printed");
            }
        };
        assert_eq!(
            printed(Format::Text, print),
            "readable\tv1\nnot\t\\xff\\t\n"
        );
        assert_eq!(
            printed(Format::Json, print),
            "{\"name\":\"readable\",\"bytes\":\"v1\"}\n{\"name\":\"not\",\"bytes\":{\"base64\":\"/wk=\"}}\n"
        );
    }

    #[test]
    fn tables_are_aligned_under_their_headings() {
        let text = printed(Format::Text, |output| {
            output.table(&RECORDS).expect("printed")
        });
        assert_eq!(text, "NAME      BYTES\nreadable  v1\nnot       \\xff\\t\n");
    }

    #[test]
    fn a_value_is_written_byte_for_byte_and_only_a_terminal_gets_a_line_feed() {
        for (is_terminal, value, expected) in [
            (false, &b"\xff\x00"[..], &b"\xff\x00"[..]),
            (false, b"", b""),
            (true, b"v", b"v\n"),
            (true, b"v\n", b"v\n"),
        ] {
            let mut bytes = Vec::new();
            let mut output = Output::new(Format::Text, KeyEncoding::Text, is_terminal, &mut bytes);
            output.value(value, &RECORDS[0]).expect("printed");
            assert_eq!(bytes, expected);
        }
    }

    #[test]
    fn only_a_terminal_is_cleared_before_it_is_drawn_again() {
        for (format, is_terminal, expected) in [
            (Format::Text, true, "\x1b[H\x1b[2Jall is well\n"),
            (Format::Text, false, "\nall is well\n"),
            (Format::Json, true, "\"all is well\"\n"),
            (Format::Json, false, "\"all is well\"\n"),
        ] {
            let mut bytes = Vec::new();
            let mut output = Output::new(format, KeyEncoding::Text, is_terminal, &mut bytes);
            output.redraw(&"all is well").expect("printed");
            assert_eq!(bytes, expected.as_bytes(), "{format:?} {is_terminal}");
        }
    }
}
