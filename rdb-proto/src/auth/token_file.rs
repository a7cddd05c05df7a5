//! A file with a token, which may be replaced while it is used.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::header::{AUTHORIZATION, HeaderValue};
use tokio::sync::watch;
use tonic::Request;

use super::token::{InvalidToken, Token};
use crate::regular_file;

/// How often a file in use is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Longest file that is read, in bytes. A token has 72.
const FILE_BYTES_MAX: u64 = 4096;

/// A regular file that has one token, and nothing beside it but white space.
///
/// It is read when it is opened, and looked at again when the token is used, at most every 5 s. When it no longer has a token, the
/// last one stays in use, and a line in the log says so once.
///
/// If new tokens are [tried first](Self::trying_first), the last one also stays in use until a server has accepted the new one.
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
    /// The one in use.
    token: Token,
    /// Its header.
    header_value: watch::Sender<HeaderValue>,
    /// Whether another one is not used before it was tried.
    tries_first: bool,
    /// What the file has instead, while it is not known whether it is good.
    untried: Option<Token>,
    looked_at: Instant,
    /// Why the one in use is not what the file has.
    trouble: Option<String>,
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
            header_value: watch::Sender::new(token.header_value()),
            token,
            tries_first: false,
            untried: None,
            looked_at: Instant::now(),
            trouble: None,
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

    /// The same file, but a token that is new in it is only [`untried`](Self::untried) until somebody has tried it.
    #[must_use]
    pub fn trying_first(self) -> Self {
        self.state().tries_first = true;
        self
    }

    /// What the file has instead of the token in use, as far as it was looked at, and was not tried since.
    pub fn untried(&self) -> Option<Token> {
        self.state().untried.clone()
    }

    /// Somebody has taken this token: it is in use from now on.
    pub fn note_taken(&self, token: Token) {
        self.state().use_on(token);
    }

    /// A server has refused this token, for this cause. The token is untried again at the next look at the file.
    pub fn note_refused(&self, token: &Token, cause: &str) {
        let mut state = self.state();
        if state.untried.as_ref() == Some(token) {
            state.untried = None;
            let path = self.0.path.display();
            state.tell(&format!(
                "the file of the token, {path}, has another one, which is refused: {cause}"
            ));
        }
    }

    /// Why the token in use is not what the file has, if it is not.
    pub fn warning(&self) -> Option<String> {
        self.state().trouble.clone()
    }

    /// Waits until another token is in use than at this moment.
    pub fn replaced(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut in_use = self.state().header_value.subscribe();
        async move {
            // It fails when nobody has the file any more.
            if in_use.changed().await.is_err() {
                std::future::pending().await
            }
        }
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
        state.header_value.borrow().clone()
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
    /// Takes the result of a look at `looked_at`, unless there was a later look.
    fn note(&mut self, read: Result<Token, TokenFileError>, looked_at: Instant) {
        if self.looked_at != looked_at {
            return;
        }
        self.untried = None;
        match read {
            Ok(token) if token == self.token => self.trouble = None,
            Ok(token) if self.tries_first => self.untried = Some(token),
            Ok(token) => self.use_on(token),
            Err(error) => {
                let cause = std::error::Error::source(&error);
                let cause = cause.map_or_else(String::new, |cause| format!(": {cause}"));
                self.tell(&format!("{error}{cause}"));
            }
        }
    }

    fn use_on(&mut self, token: Token) {
        self.header_value.send_replace(token.header_value());
        if self.untried.as_ref() == Some(&token) {
            self.untried = None;
        }
        self.token = token;
        self.trouble = None;
    }

    /// Says it in the log if it is new.
    fn tell(&mut self, trouble: &str) {
        let trouble = format!("{trouble}; the token from before stays in use");
        if self.trouble.as_ref() != Some(&trouble) {
            tracing::warn!("{trouble}");
            self.trouble = Some(trouble);
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
        assert!(file.warning().is_some());

        fs::write(&path, token('d').to_string()).expect("written");
        assert_eq!(at(4), token('d').header_value());
        assert_eq!(file.warning(), None);
        assert!(at(4).is_sensitive());
    }

    #[test]
    fn a_token_that_is_tried_first_is_used_once_it_was_taken() {
        use futures::FutureExt;

        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("token");
        let write = |digit| fs::write(&path, token(digit).to_string()).expect("written");
        write('a');
        let file = TokenFile::open(&path).expect("it has a token");
        let file = file.trying_first();
        let opened = Instant::now();
        let at = |looks: u32| file.header_value_at(opened + looks * LOOK_INTERVAL);
        for looks in 1..3 {
            write('b');
            assert_eq!(at(looks), token('a').header_value());
            assert_eq!(file.untried(), Some(token('b')), "it is tried again");
            file.note_refused(&token('c'), "another one");
            assert!(file.untried().is_some());
            file.note_refused(&token('b'), "it is ada's");
            assert_eq!(file.untried(), None);
            let warning = file.warning().expect("it is not in use");
            assert!(warning.contains("it is ada's"), "{warning}");
            assert!(!warning.contains(&token('b').to_string()), "{warning}");
        }
        let replaced = file.replaced().now_or_never();
        assert!(replaced.is_none());
        let replaced = file.replaced();
        assert_eq!(at(3), token('a').header_value());
        write('d');
        assert_eq!(at(4), token('a').header_value());
        file.note_taken(token('b'));
        assert!(replaced.now_or_never().is_some());
        assert_eq!(file.warning(), None);
        assert_eq!(at(4), token('b').header_value());
        assert_eq!(file.untried(), Some(token('d')), "it came meanwhile");
        write('b');
        assert_eq!(at(5), token('b').header_value());
        assert_eq!(file.untried(), None);
    }

    /// Opening a pipe that nobody writes to blocks.
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
            let _ = sender.send((value, file.warning().is_some()));
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

        // As with a shell's process substitution, `<(command)`.
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
