//! The forms of a file with entries.
//!
//! - `jsonl`: an object on each line, as `rdbctl raw scan --output json` prints them. Text can be read and edited. A cut
//!   between two lines is not noticed.
//! - `binary`: [`MAGIC`], then of each entry the length of the key and of the value, four bytes each, and the two; then an
//!   empty key with an empty value, the number of entries in eight bytes, and the CRC-32C of all that in four. All numbers
//!   are big-endian. A file that was cut anywhere is refused; damage is noticed at the end of the file.

use std::io::{self, BufRead, Read, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use crc32c::crc32c_append;
use rdb_client::Limits;
use serde::Deserialize;

use crate::entry::Entry;

/// The first bytes of the binary form. The first line of the other one begins with a brace.
const MAGIC: &[u8; 16] = b"FLAREDB RAW V2\r\n";

/// The most bytes that JSON takes for one: `\u0000`.
const JSON_BYTES_OF_ONE: u64 = 6;

/// What a line has beside its key and value.
const JSON_LINE_BYTES: u64 = 1024;

/// How entries are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Form {
    /// One JSON object per line, as scans print them
    Jsonl,
    /// Lengths and bytes; smaller, and a file that was cut or damaged is noticed
    Binary,
}

/// A file, and the CRC-32C of what was written to it or read from it.
pub(super) struct Summed<F> {
    file: F,
    checksum: u32,
}

impl<F> Summed<F> {
    pub(super) fn new(file: F) -> Self {
        Self { file, checksum: 0 }
    }
}

impl<F: Write> Write for Summed<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.checksum = crc32c_append(self.checksum, bytes.get(..written).unwrap_or(bytes));
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl<F: Read> Read for Summed<F> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(bytes)?;
        self.checksum = crc32c_append(self.checksum, bytes.get(..read).unwrap_or(bytes));
        Ok(read)
    }
}

impl Form {
    /// What comes before the first entry.
    pub(super) fn begin(self, file: &mut impl Write) -> io::Result<()> {
        match self {
            Self::Jsonl => Ok(()),
            Self::Binary => file.write_all(MAGIC),
        }
    }

    /// Writes an entry of the raw keyspace.
    pub(super) fn write(self, file: &mut impl Write, key: Bytes, value: Bytes) -> io::Result<()> {
        match self {
            Self::Jsonl => {
                let entry = Entry {
                    key,
                    version: None,
                    value: Some(value),
                };
                serde_json::to_writer(&mut *file, &entry)?;
                file.write_all(b"\n")
            }
            Self::Binary => {
                // Keys and values are far below 4 GiB.
                file.write_all(&(key.len() as u32).to_be_bytes())?;
                file.write_all(&(value.len() as u32).to_be_bytes())?;
                file.write_all(&key)?;
                file.write_all(&value)
            }
        }
    }

    /// What comes after the last of `entries`.
    pub(super) fn end(self, file: &mut Summed<impl Write>, entries: u64) -> io::Result<()> {
        match self {
            Self::Jsonl => Ok(()),
            Self::Binary => {
                file.write_all(&[0; 8])?;
                file.write_all(&entries.to_be_bytes())?;
                let checksum = file.checksum;
                file.write_all(&checksum.to_be_bytes())
            }
        }
    }
}

/// The entries of a file, whose form is found by its first bytes.
pub(super) struct Entries<R> {
    file: Summed<R>,
    form: Form,
    limits: Limits,
    read: u64,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub(super) enum Wrong {
    /// It cannot be read at all.
    #[error("{0}")]
    File(String),
    #[error("entry {number}: {cause}")]
    Entry { number: u64, cause: String },
    /// Its end tells of damage, which may be in any entry.
    #[error("{0}")]
    Damaged(String),
}

impl Wrong {
    pub(super) fn unreadable(error: &io::Error) -> Self {
        Self::File(format!("the file cannot be read: {error}"))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    key: JsonBytes,
    value: JsonBytes,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum JsonBytes {
    Text(String),
    Encoded { base64: String },
}

impl JsonBytes {
    fn bytes(self) -> Result<Bytes, base64::DecodeError> {
        match self {
            Self::Text(text) => Ok(text.into()),
            Self::Encoded { base64 } => STANDARD.decode(base64).map(Bytes::from),
        }
    }
}

impl<R: BufRead> Entries<R> {
    /// # Errors
    ///
    /// The file cannot be read, is empty, or is of neither form. An empty one may be what is left of a binary one.
    pub(super) fn of(file: R, limits: Limits) -> Result<Self, Wrong> {
        let unreadable = |error| Wrong::unreadable(&error);
        let mut file = Summed::new(file);
        let first = file.file.fill_buf().map_err(unreadable)?;
        if first.is_empty() {
            return Err(Wrong::File(
                "the file is empty: it has no entries".to_owned(),
            ));
        }
        let form = if first.first() == MAGIC.first() {
            let mut magic = [0; MAGIC.len()];
            file.read_exact(&mut magic).map_err(unreadable)?;
            if magic != *MAGIC {
                let cause = "the file is not one that `export` writes";
                return Err(Wrong::File(cause.to_owned()));
            }
            Form::Binary
        } else {
            Form::Jsonl
        };
        Ok(Self {
            file,
            form,
            limits,
            read: 0,
        })
    }

    /// The next entry. `None`: that was the last.
    ///
    /// # Errors
    ///
    /// Which entry is wrong, or that one is.
    pub(super) fn next(&mut self) -> Result<Option<(Bytes, Bytes)>, Wrong> {
        let next = match self.form {
            Form::Jsonl => self.next_line(),
            Form::Binary => self.next_lengths(),
        };
        let number = self.read + 1;
        let next = next.map_err(|cause| Wrong::Entry { number, cause })?;
        if next.is_some() {
            self.read = number;
        } else if self.form == Form::Binary {
            self.check_end().map_err(Wrong::Damaged)?;
        }
        Ok(next)
    }

    fn next_line(&mut self) -> Result<Option<(Bytes, Bytes)>, String> {
        let bytes_max = self.limits.key_bytes_max + self.limits.value_bytes_max;
        let line_max = JSON_LINE_BYTES + JSON_BYTES_OF_ONE * bytes_max;
        let mut line = Vec::new();
        let mut file = (&mut self.file.file).take(line_max);
        let read = file.read_until(b'\n', &mut line);
        read.map_err(|error| format!("cannot be read: {error}"))?;
        if line.is_empty() {
            return Ok(None);
        }
        let line: Line = serde_json::from_slice(&line).map_err(|error| {
            format!("the line is not an object with a key and a value: {error}")
        })?;
        let decode = |bytes: JsonBytes| bytes.bytes().map_err(|error| error.to_string());
        self.checked(decode(line.key)?, decode(line.value)?)
    }

    fn next_lengths(&mut self) -> Result<Option<(Bytes, Bytes)>, String> {
        let key_length = u32::from_be_bytes(self.array()?);
        let value_length = u32::from_be_bytes(self.array()?);
        if (key_length, value_length) == (0, 0) {
            return Ok(None);
        }
        self.check_lengths(key_length.into(), value_length.into())?;
        let mut entry = vec![0; key_length as usize + value_length as usize];
        self.file.read_exact(&mut entry).map_err(cut)?;
        let mut key = Bytes::from(entry);
        let value = key.split_off(key_length as usize);
        Ok(Some((key, value)))
    }

    fn check_end(&mut self) -> Result<(), String> {
        let entries = u64::from_be_bytes(self.array()?);
        let found = self.file.checksum;
        let checksum = u32::from_be_bytes(self.array()?);
        if entries != self.read {
            let read = self.read;
            return Err(format!(
                "{read} entries were read, and the file has {entries}"
            ));
        }
        if checksum != found {
            return Err("the checksum is wrong: an entry is damaged".to_owned());
        }
        let rest = self.file.file.fill_buf();
        let rest = rest.map_err(|error| format!("cannot be read: {error}"))?;
        if rest.is_empty() {
            Ok(())
        } else {
            Err("the file goes on behind its end".to_owned())
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        self.file.read_exact(&mut bytes).map_err(cut)?;
        Ok(bytes)
    }

    fn checked(&self, key: Bytes, value: Bytes) -> Result<Option<(Bytes, Bytes)>, String> {
        self.check_lengths(key.len() as u64, value.len() as u64)?;
        Ok(Some((key, value)))
    }

    fn check_lengths(&self, key_length: u64, value_length: u64) -> Result<(), String> {
        let Limits {
            key_bytes_max,
            value_bytes_max,
            ..
        } = self.limits;
        if key_length == 0 {
            return Err("the key is empty".to_owned());
        }
        if key_length > key_bytes_max {
            return Err(format!(
                "the key has {key_length} bytes; at most {key_bytes_max} are allowed"
            ));
        }
        if value_length > value_bytes_max {
            return Err(format!(
                "the value has {value_length} bytes; at most {value_bytes_max} are allowed"
            ));
        }
        Ok(())
    }
}

fn cut(error: io::Error) -> String {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        "the file ends here: it was cut".to_owned()
    } else {
        format!("cannot be read: {error}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    type Entry = (Bytes, Bytes);

    fn limits() -> Limits {
        let mut limits = rdb_proto::metapb::Limits::default();
        (limits.key_bytes_max, limits.value_bytes_max) = (8, 16);
        limits.into()
    }

    fn written(form: Form, entries: &[Entry]) -> Vec<u8> {
        let mut file = Summed::new(Vec::new());
        form.begin(&mut file).expect("memory");
        for (key, value) in entries {
            form.write(&mut file, key.clone(), value.clone())
                .expect("memory");
        }
        form.end(&mut file, entries.len() as u64).expect("memory");
        file.file
    }

    /// The entries before the end, and what is wrong with it.
    fn read(file: &[u8]) -> (Vec<Entry>, Option<String>) {
        let mut found = Vec::new();
        let mut entries = match Entries::of(file, limits()) {
            Ok(entries) => entries,
            Err(failure) => return (found, Some(failure.to_string())),
        };
        loop {
            match entries.next() {
                Ok(Some(entry)) => found.push(entry),
                Ok(None) => return (found, None),
                Err(failure) => return (found, Some(failure.to_string())),
            }
        }
    }

    fn entries() -> impl Strategy<Value = Vec<Entry>> {
        let bytes = |lengths| vec(any::<u8>(), lengths).prop_map(Bytes::from);
        vec((bytes(1..=8), bytes(0..=16)), 0..20)
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(entries in entries()) {
            for form in [Form::Jsonl, Form::Binary] {
                let file = written(form, &entries);
                if !file.is_empty() {
                    prop_assert_eq!(read(&file), (entries.clone(), None));
                }
            }
        }

        #[test]
        fn a_binary_file_that_was_cut_is_noticed(entries in entries(), cut in any::<prop::sample::Index>()) {
            let file = written(Form::Binary, &entries);
            let length = cut.index(file.len());
            let (found, wrong) = read(&file[..length]);
            prop_assert!(wrong.is_some());
            prop_assert_eq!(&found[..], &entries[..found.len()]);
        }

        #[test]
        fn a_binary_file_with_another_byte_is_noticed(
            entries in entries(),
            place in any::<prop::sample::Index>(),
            change in 1u8..,
        ) {
            let mut file = written(Form::Binary, &entries);
            let place = place.index(file.len());
            file[place] ^= change;
            let (_, wrong) = read(&file);
            prop_assert!(wrong.is_some());
        }

        #[test]
        fn whatever_is_in_a_file_is_read_or_refused(mut file in vec(any::<u8>(), 0..200), binary in any::<bool>()) {
            if binary {
                file.splice(..0, *MAGIC);
            }
            read(&file);
        }
    }

    #[test]
    fn an_entry_that_is_wrong_is_named() {
        let line = |key: &str, value: &str| {
            format!(
                "{{\"key\":\"k\",\"value\":\"v\"}}\n{{\"key\":\"{key}\",\"value\":\"{value}\"}}\n"
            )
        };
        let long = "x".repeat(17);
        for (file, wrong) in [
            (line("", "v"), "entry 2: the key is empty"),
            (line(&long, "v"), "entry 2: the key has 17 bytes; at most 8"),
            (
                line("k", &long),
                "entry 2: the value has 17 bytes; at most 16",
            ),
            (line("k", "v").replace("\"value\"", "\"worth\""), "entry 1"),
            (
                "k1\tv1\n".to_owned(),
                "not an object with a key and a value",
            ),
            (
                "FLAREDB RAW V9\r\n".to_owned(),
                "not one that `export` writes",
            ),
        ] {
            let (_, found) = read(file.as_bytes());
            let found = found.expect(wrong);
            assert!(found.contains(wrong), "{found}");
        }
        let mut file = written(Form::Binary, &[("k".into(), "v".into())]);
        let length = file.len();
        file[length - 5] = 2;
        let (_, found) = read(&file);
        assert!(
            found
                .expect("refused")
                .contains("1 entries were read, and the file has 2")
        );
        file[length - 5] = 1;
        let twice = [&file[..], &file[..]].concat();
        let (_, found) = read(&twice);
        assert!(found.expect("refused").contains("behind its end"));
    }
}
