//! A file with a token, which may be replaced while it is used.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::header::{AUTHORIZATION, HeaderValue};
use tonic::Request;

use super::token::{InvalidToken, Token};
use crate::regular_file;

/// How often a file is looked at that is in use.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Longest file that is read, in bytes. A token has 72.
const FILE_BYTES_MAX: u64 = 4096;

/// A regular file that has one token, and nothing beside it but white space.
///
/// It is read when it is opened, and looked at again when the token is used, at most every 5 s. When there is no token in it any more,
/// the one from before stays in use, and a line in the log says so once.
#[derive(Clone)]
pub struct TokenFile(Arc<Watched>);

/// There is no token in a file.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    /// It cannot be read, or not again: a pipe.
    #[error("the file of the token, {}, cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It has something else.
    #[error("the file of the token, {}, has something else", path.display())]
    NoToken {
        /// The file.
        path: PathBuf,
        /// What would be right.
        source: InvalidToken,
    },
}

struct Watched {
    path: PathBuf,
    state: Mutex<State>,
}

struct State {
    token: Token,
    header_value: HeaderValue,
    looked_at: Instant,
    /// It was told that there is no token any more.
    has_warned: bool,
}

impl TokenFile {
    /// Reads the token in a file.
    ///
    /// # Errors
    ///
    /// When it cannot be read, is no regular file, or has no token.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, TokenFileError> {
        let path = path.into();
        let token = read(&path)?;
        let state = State {
            header_value: token.header_value(),
            token,
            looked_at: Instant::now(),
            has_warned: false,
        };
        Ok(Self(Arc::new(Watched {
            path,
            state: Mutex::new(state),
        })))
    }

    /// Whether every user of this machine can read the file of a token.
    pub fn is_readable_by_all(path: &Path) -> bool {
        regular_file::is_readable_by_all(path)
    }

    /// The value of the header [`AUTHORIZATION`](super::AUTHORIZATION) of the next call.
    pub fn header_value(&self) -> HeaderValue {
        self.header_value_at(Instant::now())
    }

    /// A request that carries the token, if there is one.
    pub fn request<T>(token: Option<&Self>, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = token {
            let headers = request.metadata_mut().as_mut();
            headers.insert(AUTHORIZATION, token.header_value());
        }
        request
    }

    fn header_value_at(&self, now: Instant) -> HeaderValue {
        let mut state = self.state();
        if now.saturating_duration_since(state.looked_at) >= LOOK_INTERVAL {
            state.looked_at = now;
            // Others go on with the token from before.
            drop(state);
            let read = read(&self.0.path);
            state = self.state();
            state.note(read, now);
        }
        state.header_value.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for TokenFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_tuple("TokenFile")
            .field(&self.0.path)
            .finish()
    }
}

impl State {
    /// Goes on with what was read by who looked then, unless somebody has looked since.
    fn note(&mut self, read: Result<Token, TokenFileError>, looked_at: Instant) {
        if self.looked_at != looked_at {
            return;
        }
        match read {
            Ok(token) => {
                self.has_warned = false;
                if token != self.token {
                    self.header_value = token.header_value();
                    self.token = token;
                }
            }
            Err(error) if !std::mem::replace(&mut self.has_warned, true) => {
                let cause = std::error::Error::source(&error).map(tracing::field::display);
                tracing::warn!(cause, "{error}; the token from before stays in use");
            }
            Err(_) => {}
        }
    }
}

fn read(path: &Path) -> Result<Token, TokenFileError> {
    let unreadable = |source| TokenFileError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let text = regular_file::read(path, FILE_BYTES_MAX).map_err(unreadable)?;
    let token = str::from_utf8(&text).map_err(|_| InvalidToken);
    let token = token.and_then(|text| text.trim_ascii().parse());
    token.map_err(|source| TokenFileError::NoToken {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn token(digit: char) -> Token {
        let digits = digit.to_string().repeat(64);
        format!("flaredb_{digits}").parse().expect("a token")
    }

    #[test]
    fn a_token_that_is_replaced_is_used_when_the_file_is_looked_at_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("token");
        fs::write(&path, format!("{}\n", token('a'))).expect("written");
        let file = TokenFile::open(&path).expect("it has a token");
        let opened = Instant::now();
        let at = |looks: u32| file.header_value_at(opened + looks * LOOK_INTERVAL);
        assert_eq!(file.header_value(), token('a').header_value());

        fs::write(&path, format!(" {}", token('b'))).expect("written");
        assert_eq!(at(0), token('a').header_value(), "it is not looked at yet");
        assert_eq!(at(1), token('b').header_value());

        for bad in ["", "flaredb_", &format!("{} {}", token('c'), token('c'))] {
            fs::write(&path, bad).expect("written");
            assert_eq!(at(2), token('b').header_value(), "the one from before");
        }
        fs::remove_file(&path).expect("removed");
        assert_eq!(at(3), token('b').header_value());
        assert!(file.state().has_warned);

        fs::write(&path, token('d').to_string()).expect("written");
        assert_eq!(at(4), token('d').header_value());
        assert!(!file.state().has_warned);
        assert!(at(4).is_sensitive());
    }

    /// A pipe that nobody writes to has whoever opens it wait.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_file_that_has_become_a_pipe_is_not_waited_for() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("token");
        fs::write(&path, token('a').to_string()).expect("written");
        let file = TokenFile::open(&path).expect("it has a token");
        fs::remove_file(&path).expect("removed");
        mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).expect("made");
        let (sender, looked) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let value = file.header_value_at(Instant::now() + LOOK_INTERVAL);
            let _ = sender.send((value, file.state().has_warned));
        });
        let looked = looked.recv_timeout(Duration::from_secs(60));
        assert_eq!(looked, Ok((token('a').header_value(), true)));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_pipe_is_refused_at_once_and_the_token_in_it_is_not_blamed() {
        use std::io::Write;
        use std::os::fd::AsRawFd;

        use rustix::fs::{CWD, FileType, Mode, mknodat};

        let refused = |path: PathBuf| {
            let (sender, opened) = std::sync::mpsc::channel();
            std::thread::spawn(move || sender.send(TokenFile::open(path).map(drop)));
            let opened = opened.recv_timeout(Duration::from_secs(60));
            let error = opened.expect("at once").expect_err("it is a pipe");
            let source = std::error::Error::source(&error).expect("why");
            let told = source.to_string();
            assert!(told.contains("it is no regular file"), "{told}");
        };
        let directory = tempfile::tempdir().expect("a directory");
        let nobody_writes = directory.path().join("token");
        mknodat(CWD, &nobody_writes, FileType::Fifo, Mode::RWXU, 0).expect("made");
        refused(nobody_writes);

        // As a shell passes on what another program prints.
        let (reader, mut writer) = io::pipe().expect("a pipe");
        writeln!(writer, "{}", token('a')).expect("it has room");
        refused(format!("/dev/fd/{}", reader.as_raw_fd()).into());
        drop((reader, writer));
    }

    #[test]
    fn who_has_read_slowly_does_not_bring_an_old_token_back() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("token");
        fs::write(&path, token('a').to_string()).expect("written");
        let file = TokenFile::open(&path).expect("it has a token");
        let slow = Instant::now() + LOOK_INTERVAL;
        fs::write(&path, token('b').to_string()).expect("written");
        let value = file.header_value_at(slow + LOOK_INTERVAL);
        file.state().note(Ok(token('a')), slow);
        assert_eq!(value, token('b').header_value());
        assert_eq!(file.header_value_at(slow), value);
    }

    #[test]
    fn a_file_without_a_token_cannot_be_opened_and_is_not_shown() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("token");
        let missing = TokenFile::open(&path).expect_err("it is missing");
        assert!(matches!(missing, TokenFileError::Unreadable { .. }));
        fs::write(&path, "secret").expect("written");
        let error = TokenFile::open(&path).expect_err("no token");
        assert!(!format!("{error} {error:?}").contains("secret"));
        fs::write(&path, [0xff; 10_000]).expect("written");
        let binary = TokenFile::open(&path).expect_err("no token");
        assert!(matches!(binary, TokenFileError::NoToken { .. }));
    }
}
