//! The file of the audit log. It is appended to, rotated by size, and created anew when somebody else has renamed it.
//!
//! Rotation renames FILE to FILE.1, FILE.1 to FILE.2 and so on; the old FILE.5 is gone. If that fails, the file keeps growing. FILE is
//! first renamed to FILE.0: if FILE cannot be renamed, no older file is moved, and in the end lost, for nothing. A process that is killed
//! in between leaves FILE.0 behind, and the next rotation includes it.
//!
//! The file is locked while it is written, so that two processes never write and rotate it at once.
//!
//! A file has whole lines. If a write fails within a line, the file is cut back to the beginning of that line; if that fails, too, or the
//! process was killed there, the next event begins on a new line.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags, flock};

use super::AuditError;
use super::line::BEGINNING;
use crate::figures::Counter;

/// Files that are kept beside the one that is written.
const ROTATED_FILES: u32 = 5;

/// How long after a rotation that failed the next one is tried.
const ROTATION_PAUSE: Duration = Duration::from_secs(10);

/// What does not work, and why.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) what: &'static str,
    pub(super) error: io::Error,
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> Failure {
    move |error| Failure { what, error }
}

/// What was written.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) lines: Counter,
    pub(super) bytes: Counter,
}

/// The file that is written to.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    bytes_max: u64,
    /// `None`: it could not be opened again.
    open: Option<Opened>,
    is_begun_anew: bool,
    /// The last rotation, if it failed.
    unrotated: Option<Unrotated>,
}

#[derive(Debug)]
struct Opened {
    file: File,
    /// Device and inode.
    id: (u64, u64),
    /// It ends within a line.
    is_torn: bool,
    /// Something was written that is not synced.
    is_unsynced: bool,
}

#[derive(Debug)]
struct Unrotated {
    failure: Failure,
    at: Instant,
}

/// How the log and its secret are opened: for their owner alone, and not through a link.
pub(super) fn options() -> OpenOptions {
    let mut options = File::options();
    options
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits() as i32);
    options
}

fn id_of(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

impl Opened {
    fn open(path: &Path) -> io::Result<Self> {
        let file = options().open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is no regular file",
            ));
        }
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        let mut last = [b'\n'];
        if let Some(position) = metadata.len().checked_sub(1) {
            file.read_exact_at(&mut last, position)?;
        }
        Ok(Self {
            id: id_of(&metadata),
            file,
            is_torn: last != [b'\n'],
            is_unsynced: false,
        })
    }

    /// Writes the lines, or as many whole ones as the file takes. Returns how many bytes those have.
    fn append(&mut self, lines: &[u8]) -> (usize, io::Result<()>) {
        if self.is_torn {
            if let Err(error) = (&self.file).write_all(b"\n") {
                return (0, Err(error));
            }
            self.is_torn = false;
        }
        let (done, result) = write_some(&self.file, lines);
        self.is_unsynced |= done > 0;
        let whole = lines[..done].iter().rposition(|byte| *byte == b'\n');
        let whole = whole.map_or(0, |position| position + 1);
        if whole < done {
            self.is_torn = self.cut(done - whole).is_err();
        }
        (whole, result)
    }

    /// Takes the last bytes back.
    fn cut(&self, bytes: usize) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        self.file.set_len(length.saturating_sub(bytes as u64))
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.is_unsynced {
            self.file.sync_data()?;
            self.is_unsynced = false;
        }
        Ok(())
    }
}

/// Whether it is the name of a secret, or of a file that was rotated: those of another log.
fn is_kept_name(path: &Path) -> bool {
    let extension = path.extension().and_then(OsStr::to_str);
    extension.is_some_and(|extension| {
        let number = extension.parse::<u32>();
        extension == "key" || number.is_ok_and(|number| number <= ROTATED_FILES)
    })
}

/// Whether a file has nothing but a log, by how it begins. A crash may have torn its first line, and a power cut may have left zeros.
fn is_log(file: &File) -> io::Result<bool> {
    let mut beginning = [0; BEGINNING.len()];
    let read = file.read_at(&mut beginning, 0)?;
    let beginning = &beginning[..read];
    Ok(BEGINNING.starts_with(beginning) || beginning.first() == Some(&0))
}

/// The directory of a file.
fn directory(path: &Path) -> &Path {
    let parent = path.parent();
    let named = parent.filter(|parent| !parent.as_os_str().is_empty());
    named.unwrap_or(Path::new("."))
}

/// Writes until an error. Returns how many bytes were written.
fn write_some(mut file: &File, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut done = 0;
    while done < bytes.len() {
        match file.write(&bytes[done..]) {
            Ok(0) => return (done, Err(io::ErrorKind::WriteZero.into())),
            Ok(written) => done += written,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (done, Err(error)),
        }
    }
    (done, Ok(()))
}

impl LogFile {
    /// Whether a log can be there, before anything is made beside it.
    pub(super) fn check(path: &Path) -> Result<(), AuditError> {
        let path = path.to_owned();
        if is_kept_name(&path) {
            return Err(AuditError::KeptName { path });
        }
        if fs::symlink_metadata(&path).is_ok_and(|found| !found.is_file()) {
            return Err(AuditError::NoFile { path });
        }
        let is_log = match options().create(false).open(&path) {
            Ok(file) => is_log(&file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let directory = directory(&path).to_owned();
                if directory.exists() {
                    return Ok(());
                }
                return Err(AuditError::NoDirectory { path, directory });
            }
            Err(error) => Err(error),
        };
        match is_log {
            Ok(true) => Ok(()),
            Ok(false) => Err(AuditError::NoLog { path }),
            Err(source) => Err(AuditError::Io {
                path,
                what: "opened",
                source,
            }),
        }
    }

    /// Opens the file, or makes it, where it [can be](Self::check). It may have more than `bytes_max` until the next line.
    pub(super) fn open(path: PathBuf, bytes_max: u64) -> Result<Self, AuditError> {
        match Opened::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(AuditError::Held { path })
            }
            Ok(opened) => Ok(Self {
                path,
                bytes_max,
                open: Some(opened),
                is_begun_anew: true,
                unrotated: None,
            }),
            Err(source) => Err(AuditError::Io {
                path,
                what: "opened",
                source,
            }),
        }
    }

    /// Makes the file ready for `bytes` more bytes. This may open another file.
    pub(super) fn prepare(&mut self, bytes: usize) -> Result<(), Failure> {
        self.follow()?;
        if self.is_due(bytes)? {
            let rotated = self.rotate();
            if self.open.is_none() {
                rotated?;
            } else {
                let at = Instant::now();
                self.unrotated = rotated.err().map(|failure| Unrotated { failure, at });
            }
        }
        Ok(())
    }

    /// Whether nothing was written to the file since it was opened.
    pub(super) fn is_begun_anew(&self) -> bool {
        self.is_begun_anew
    }

    /// Writes lines, and takes from `lines` those that are written. To be called after [`prepare`](Self::prepare).
    pub(super) fn write(&mut self, lines: &mut Vec<u8>, written: &Written) -> Result<(), Failure> {
        let Some(open) = &mut self.open else {
            let error = io::ErrorKind::NotFound.into();
            return Err(failed("written")(error));
        };
        let (bytes, result) = open.append(lines);
        self.is_begun_anew &= bytes == 0;
        let whole = lines.drain(..bytes);
        written.bytes.add(bytes as u64);
        written
            .lines
            .add(whole.filter(|byte| *byte == b'\n').count() as u64);
        result.map_err(failed("written"))
    }

    /// Has the disk keep what was written.
    pub(super) fn sync(&mut self) -> Result<(), Failure> {
        let synced = self.open.as_mut().map_or(Ok(()), Opened::sync);
        synced.map_err(failed("synced"))
    }

    /// Whether something was written that is not synced.
    pub(super) fn is_unsynced(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.is_unsynced)
    }

    /// Why the last rotation failed, if it did.
    pub(super) fn unrotated(&self) -> Option<&Failure> {
        self.unrotated.as_ref().map(|unrotated| &unrotated.failure)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes elsewhere from now on. Returns where it did before.
    #[cfg(test)]
    pub(super) fn divert(&mut self, file: File) -> File {
        let open = self.open.as_mut().expect("it is open");
        std::mem::replace(&mut open.file, file)
    }

    /// Opens the file again if its name now belongs to another file, or to none.
    fn follow(&mut self) -> Result<(), Failure> {
        if let Some(open) = &mut self.open {
            let is_gone = match fs::symlink_metadata(&self.path) {
                Ok(found) => id_of(&found) != open.id,
                Err(error) => error.kind() == io::ErrorKind::NotFound,
            };
            if !is_gone {
                return Ok(());
            }
            open.sync().map_err(failed("synced"))?;
            self.open = None;
            let path = self.path.display();
            tracing::info!(%path, "the file of the audit log was renamed or removed: another one is begun");
        }
        self.reopen()
    }

    fn reopen(&mut self) -> Result<(), Failure> {
        let opened = Opened::open(&self.path).map_err(failed("opened"))?;
        self.open = Some(opened);
        self.is_begun_anew = true;
        self.sync_directory();
        Ok(())
    }

    /// Whether it is time to rotate. A file has at least one batch of lines, and one that cannot be rotated is left for a while.
    fn is_due(&self, bytes: usize) -> Result<bool, Failure> {
        let Some(open) = &self.open else {
            return Ok(false);
        };
        let length = open.file.metadata().map_err(failed("looked at"))?.len();
        let failed_lately = |unrotated: &Unrotated| unrotated.at.elapsed() < ROTATION_PAUSE;
        let is_full = length > 0 && length.saturating_add(bytes as u64) > self.bytes_max;
        Ok(is_full && !self.unrotated.as_ref().is_some_and(failed_lately))
    }

    fn rotate(&mut self) -> Result<(), Failure> {
        self.sync()?;
        let aside = self.rotated(0);
        if fs::symlink_metadata(&aside).is_ok_and(|left| left.is_file()) {
            self.shift().map_err(failed("rotated"))?;
        }
        fs::rename(&self.path, &aside).map_err(failed("rotated"))?;
        if let Err(error) = self.shift() {
            // If that fails, too, another file is begun, and the next rotation finds this one.
            let _ = fs::rename(&aside, &self.path);
            return Err(failed("rotated")(error));
        }
        self.open = None;
        self.reopen()
    }

    /// Renames FILE.0 to FILE.1 and so on, up to the first unused number. So if a file cannot be renamed, retries lose no further file.
    fn shift(&self) -> io::Result<()> {
        let is_missing = |number: &u32| {
            let found = fs::symlink_metadata(self.rotated(*number));
            found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        };
        let gap = (1..ROTATED_FILES).find(is_missing);
        for number in (0..gap.unwrap_or(ROTATED_FILES)).rev() {
            fs::rename(self.rotated(number), self.rotated(number + 1))?;
        }
        Ok(())
    }

    fn rotated(&self, number: u32) -> PathBuf {
        let mut name = OsString::from(&self.path);
        name.push(format!(".{number}"));
        name.into()
    }

    /// Losing a name in a power cut costs less than a stalled log.
    fn sync_directory(&self) {
        if let Ok(directory) = File::open(directory(&self.path)) {
            let _ = directory.sync_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
    use tempfile::TempDir;

    use super::*;

    struct Fixture {
        directory: TempDir,
        written: Written,
    }

    impl Fixture {
        fn new() -> Self {
            Self {
                directory: TempDir::new().expect("it can be written"),
                written: Written::default(),
            }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        fn open(&self, bytes_max: u64) -> LogFile {
            LogFile::open(self.path("log"), bytes_max).expect("it can be opened")
        }

        /// Writes a text, and returns whether it began a file.
        fn put(&self, log: &mut LogFile, text: &str) -> bool {
            let mut lines = text.as_bytes().to_vec();
            log.prepare(lines.len()).expect("it works");
            let is_begun = log.is_begun_anew();
            log.write(&mut lines, &self.written).expect("it works");
            assert!(lines.is_empty());
            is_begun
        }

        fn text(&self, name: &str) -> Option<String> {
            fs::read_to_string(self.path(name)).ok()
        }
    }

    #[test]
    fn a_full_file_is_rotated_and_the_sixth_one_is_gone() {
        let fixture = Fixture::new();
        let mut log = fixture.open(8);
        assert!(fixture.put(&mut log, "0000\n"));
        assert!(!fixture.put(&mut log, "00\n"), "there is room for it");
        for number in 1..=6 {
            assert!(fixture.put(&mut log, &format!("{number}{number}{number}\n")));
            assert!(!fixture.put(&mut log, "xxx\n"), "{number}");
        }
        assert_eq!(fixture.text("log").as_deref(), Some("666\nxxx\n"));
        assert_eq!(fixture.text("log.1").as_deref(), Some("555\nxxx\n"));
        assert_eq!(fixture.text("log.5").as_deref(), Some("111\nxxx\n"));
        assert_eq!(fixture.text("log.6"), None);
        let counted = (fixture.written.lines.get(), fixture.written.bytes.get());
        assert_eq!(counted, (14, 8 + 6 * 8));
        let mode = fs::metadata(fixture.path("log")).expect("it is there");
        assert_eq!(mode.permissions().mode() & 0o777, 0o600);
        drop(log);
        assert!(fixture.put(&mut fixture.open(100), "on\n"));
        assert_eq!(fixture.text("log").as_deref(), Some("666\nxxx\non\n"));
    }

    #[test]
    fn a_file_that_was_renamed_or_removed_is_begun_anew() {
        let fixture = Fixture::new();
        let mut log = fixture.open(100);
        fixture.put(&mut log, "1\n");
        fs::rename(fixture.path("log"), fixture.path("moved")).expect("renamed");
        assert!(fixture.put(&mut log, "2\n"));
        assert!(!fixture.put(&mut log, "3\n"));
        fs::remove_file(fixture.path("log")).expect("removed");
        assert!(fixture.put(&mut log, "4\n"));
        fs::rename(fixture.path("moved"), fixture.path("log")).expect("renamed");
        assert!(fixture.put(&mut log, "5\n"), "it is another file");
        assert_eq!(fixture.text("log").as_deref(), Some("1\n5\n"));
    }

    #[test]
    fn what_cannot_be_rotated_grows() {
        let fixture = Fixture::new();
        let mut log = fixture.open(4);
        fixture.put(&mut log, "111\n");
        for number in 1..=ROTATED_FILES {
            let in_the_way = fixture.path(&format!("log.{number}/in the way"));
            fs::create_dir_all(in_the_way).expect("made");
        }
        assert!(!fixture.put(&mut log, "222\n"));
        assert_eq!(log.unrotated().map(|failure| failure.what), Some("rotated"));
        fs::remove_dir_all(fixture.path("log.5")).expect("removed");
        assert!(!fixture.put(&mut log, "333\n"), "it is left for a while");
        log.unrotated = None;
        assert!(fixture.put(&mut log, "444\n"));
        assert!(log.unrotated().is_none());
        assert_eq!(fixture.text("log.1").as_deref(), Some("111\n222\n333\n"));
    }

    /// FILE can be made one that is only appended to, if this is ext4 or the like and the process is root's.
    fn keep_in_place(path: &Path, is_kept: bool) -> io::Result<()> {
        let file = File::open(path)?;
        let mut flags = ioctl_getflags(&file)?;
        flags.set(IFlags::APPEND, is_kept);
        Ok(ioctl_setflags(&file, flags)?)
    }

    fn kept(fixture: &Fixture) -> Vec<Option<String>> {
        let numbers = 1..=ROTATED_FILES;
        numbers
            .map(|number| fixture.text(&format!("log.{number}")))
            .collect()
    }

    #[test]
    fn no_kept_file_is_lost_while_the_log_cannot_be_renamed() {
        let fixture = Fixture::new();
        let mut log = fixture.open(4);
        for number in 0..=ROTATED_FILES {
            fixture.put(&mut log, &format!("{number}{number}{number}\n"));
        }
        let before = kept(&fixture);
        assert_eq!(before[4].as_deref(), Some("000\n"));
        let in_the_way = fixture.path("log.0/in the way");
        fs::create_dir_all(&in_the_way).expect("made");
        for _ in 0..3 {
            log.unrotated = None;
            assert!(!fixture.put(&mut log, "xxx\n"));
            assert!(log.unrotated().is_some());
            assert_eq!(kept(&fixture), before);
        }
        fs::remove_dir_all(fixture.path("log.0")).expect("removed");
        if keep_in_place(&fixture.path("log"), true).is_ok() {
            let mut refused = Vec::new();
            for _ in 0..3 {
                log.unrotated = None;
                fixture.put(&mut log, "yyy\n");
                refused.push(log.unrotated().is_some());
            }
            let now = kept(&fixture);
            keep_in_place(&fixture.path("log"), false).expect("as before");
            assert_eq!(now, before);
            assert_eq!(refused, [true; 3]);
        }
        log.unrotated = None;
        assert!(fixture.put(&mut log, "zzz\n"));
        assert_eq!(kept(&fixture)[1..], before[..4]);
    }

    #[test]
    fn a_kept_file_that_stays_where_it_is_costs_one_other() {
        let fixture = Fixture::new();
        let mut log = fixture.open(4);
        for number in 0..=ROTATED_FILES {
            fixture.put(&mut log, &format!("{number}{number}{number}\n"));
        }
        if keep_in_place(&fixture.path("log.2"), true).is_err() {
            return;
        }
        for _ in 0..3 {
            log.unrotated = None;
            fixture.put(&mut log, "xxx\n");
        }
        keep_in_place(&fixture.path("log.2"), false).expect("as before");
        let text = |name: &str| fixture.text(name);
        assert_eq!(text("log.5").as_deref(), Some("111\n"));
        assert_eq!(text("log.4").as_deref(), Some("222\n"));
        assert_eq!(text("log.1").as_deref(), Some("444\n"));
        assert_eq!(text("log").as_deref(), Some("555\nxxx\nxxx\nxxx\n"));
    }

    #[test]
    fn a_rotation_that_a_crash_has_cut_is_completed_by_the_next_one() {
        let fixture = Fixture::new();
        fs::write(fixture.path("log.0"), "000\n").expect("written");
        let mut log = fixture.open(4);
        fixture.put(&mut log, "111\n");
        fixture.put(&mut log, "222\n");
        assert_eq!(fixture.text("log.2").as_deref(), Some("000\n"));
        assert_eq!(fixture.text("log.1").as_deref(), Some("111\n"));
        assert_eq!(fixture.text("log.0"), None);
    }

    #[test]
    fn no_two_write_into_one_file_or_into_what_is_kept_of_another() {
        let fixture = Fixture::new();
        let _log = fixture.open(100);
        let refused = LogFile::open(fixture.path("log"), 100).expect_err("it is held");
        assert!(matches!(refused, AuditError::Held { .. }), "{refused}");
        for name in ["log.key", "log.0", "log.1", "log.5"] {
            let refused = LogFile::check(&fixture.path(name)).expect_err(name);
            assert!(matches!(refused, AuditError::KeptName { .. }), "{refused}");
        }
        LogFile::check(&fixture.path("log.2026")).expect("a name");
    }

    #[test]
    fn a_line_that_a_crash_has_torn_spoils_no_other() {
        let fixture = Fixture::new();
        fs::write(fixture.path("log"), "whole\nto").expect("written");
        fixture.put(&mut fixture.open(100), "next\n");
        assert_eq!(fixture.text("log").as_deref(), Some("whole\nto\nnext\n"));
    }

    #[test]
    fn what_a_full_disk_does_not_take_is_kept() {
        let fixture = Fixture::new();
        let mut log = fixture.open(100);
        let full = File::options().write(true).open("/dev/full");
        let file = log.divert(full.expect("Linux has it"));
        let mut lines = b"1\n".to_vec();
        let failure = log.write(&mut lines, &fixture.written);
        let error = failure.expect_err("it is full").error;
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(lines, b"1\n");
        assert!(log.is_begun_anew(), "nothing was written");
        log.divert(file);
        log.write(&mut lines, &fixture.written).expect("it works");
        assert_eq!(fixture.text("log").as_deref(), Some("1\n"));
    }

    #[test]
    fn only_a_regular_file_is_a_log() {
        let fixture = Fixture::new();
        fs::create_dir(fixture.path("directory")).expect("made");
        std::os::unix::fs::symlink(fixture.path("log"), fixture.path("link")).expect("made");
        for path in [
            fixture.path("directory"),
            fixture.path("link"),
            "/dev/null".into(),
        ] {
            let refused = LogFile::check(&path).expect_err("refused");
            assert!(matches!(refused, AuditError::NoFile { .. }), "{refused}");
        }
    }

    #[test]
    fn a_directory_that_is_missing_is_named() {
        let fixture = Fixture::new();
        let refused = LogFile::check(&fixture.path("nowhere/log")).expect_err("refused");
        let directory = fixture.path("nowhere");
        let named = format!("no directory {} for ", directory.display());
        assert!(refused.to_string().contains(&named), "{refused}");
        assert!(!refused.may_pass());
        LogFile::check(Path::new("no-such-log")).expect("the working directory is there");
    }

    #[test]
    fn a_file_that_is_no_log_is_left_as_it_is() {
        let fixture = Fixture::new();
        let path = fixture.path("stores.token");
        for (text, is_log) in [
            ("", true),
            ("{\"time\":\"2026-11-27T20:13:00Z\"}\n", true),
            ("{\"ti", true),
            ("\0\0\0", true),
            ("flaredb_0f0f\n", false),
            ("{\"key\":\"value\"}\n", false),
            ("\n", false),
        ] {
            fs::write(&path, text).expect("it can be written");
            let refused = LogFile::check(&path).err();
            assert_eq!(refused.is_none(), is_log, "{text:?}");
            if let Some(refused) = refused {
                assert!(matches!(refused, AuditError::NoLog { .. }), "{refused}");
                assert!(!refused.may_pass());
            }
        }
    }
}
