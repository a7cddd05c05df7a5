//! One process of a playground.
//!
//! It is started in two steps, since only a process itself can ask to be killed with its parent: `rdbctl` starts `rdbctl`,
//! which asks the system for that, and then becomes the program. On systems other than Linux a process outlives a playground
//! that was killed with SIGKILL.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{sleep, timeout};

use super::directory::Directory;
use crate::failure::Failure;

/// The first argument of an `rdbctl` that becomes another program.
const BECOME: &str = "--become-a-process-of-a-playground";

/// Where a process listens that was never started before.
const ANY_PORT: &str = "127.0.0.1:0";

/// Where its status pages are: a port that is far from its own may be that of another process.
const STATUS_ADDR: [&str; 2] = ["--status-addr", ANY_PORT];

/// What a process says last that cannot listen since another one does.
const ADDRESS_IN_USE: &str = "Address already in use";

/// How often a process that starts or stops is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// How long a process may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// The programs beside this one.
#[derive(Clone)]
pub(super) struct Programs {
    pub(super) pd: PathBuf,
    pub(super) server: PathBuf,
}

impl Programs {
    pub(super) fn beside_this() -> Result<Self, Failure> {
        let this = env::current_exe().map_err(|error| Failure::failed(error.to_string()))?;
        let beside = |name| {
            let program = this.with_file_name(name);
            if program.is_file() {
                return Ok(program);
            }
            let program = program.display();
            Err(Failure::failed(format!(
                "{program} is missing; it has to be beside rdbctl"
            )))
        };
        Ok(Self {
            pd: beside("rdb-pd")?,
            server: beside("rdb-server")?,
        })
    }
}

/// A process that listens. Dropping it kills it.
pub(super) struct Process {
    pub(super) name: String,
    pub(super) address: String,
    /// Where its status pages are.
    pub(super) status_address: Option<String>,
    pub(super) pid: u32,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program, and waits until it listens. It has its old port, if that is free.
    ///
    /// Call it on the main thread: a process ends with the thread that started it.
    pub(super) async fn start(
        name: &str,
        program: &Path,
        flags: &[String],
        directory: &Directory,
    ) -> Result<Self, Failure> {
        let old = directory.address(name).filter(|old| *old != ANY_PORT);
        for address in old.into_iter().chain([ANY_PORT]) {
            let mut process = Self::spawn(name, program, address, flags, directory)?;
            loop {
                if let Some(Listening { address, status }) = listens_on(&process.log) {
                    process.address = address;
                    process.status_address = status;
                    return Ok(process);
                }
                if let Some(cause) = process.ended() {
                    if address != ANY_PORT && cause.contains(ADDRESS_IN_USE) {
                        break;
                    }
                    return Err(Failure::failed(cause));
                }
                sleep(LOOK_INTERVAL).await;
            }
        }
        Err(Failure::failed(format!("{name}: there is no free port")))
    }

    fn spawn(
        name: &str,
        program: &Path,
        address: &str,
        flags: &[String],
        directory: &Directory,
    ) -> Result<Self, Failure> {
        let cannot = |what: &Path, error| Failure::failed(format!("{}: {error}", what.display()));
        let this = env::current_exe().map_err(|error| Failure::failed(error.to_string()))?;
        let data = directory.path().join(name);
        let log = directory.path().join(format!("{name}.log"));
        let written = File::create(&log).and_then(|file| Ok((file.try_clone()?, file)));
        let (stdout, stderr) = written.map_err(|error| cannot(&log, error))?;
        let mut command = Command::new(&this);
        // Ctrl-C is for this process, which then stops the others.
        command.process_group(0);
        for (variable, _) in env::vars_os() {
            if is_setting(&variable) {
                command.env_remove(variable);
            }
        }
        command
            .args([BECOME, &std::process::id().to_string()])
            .arg(program)
            .args(["--addr", address, "--data-dir"])
            .arg(data)
            .args(STATUS_ADDR)
            .args(flags)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr);
        let child = command.spawn().map_err(|error| cannot(&this, error))?;
        Ok(Self {
            name: name.to_owned(),
            address: address.to_owned(),
            status_address: None,
            pid: child.id(),
            child,
            log,
        })
    }

    /// How it ended, in one sentence, if it did.
    pub(super) fn ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().transpose()?;
        let (name, log) = (&self.name, self.log.display());
        let has_failed = status
            .as_ref()
            .is_ok_and(|status| status.code().is_some_and(|code| code != 0));
        let how = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        if !has_failed {
            return Some(format!("{name} has ended ({how}); its log is {log}"));
        }
        let last = fs::read_to_string(&self.log).unwrap_or_default();
        let last = last.lines().next_back().unwrap_or("nothing");
        Some(format!(
            "{name} has ended ({how}); the last that {log} says is: {last}"
        ))
    }

    /// SIGTERM, and SIGKILL if that does not help.
    pub(super) async fn stop(&mut self) {
        // Its id is another's only once it has been waited for.
        if self.ended().is_none()
            && let Err(error) = kill_process(Pid::from_child(&self.child), Signal::TERM)
        {
            tracing::debug!(name = self.name, %error, "not told to stop");
        }
        let ends = async {
            while self.ended().is_none() {
                sleep(LOOK_INTERVAL).await;
            }
        };
        if timeout(STOP_TIMEOUT, ends).await.is_err() {
            let name = &self.name;
            tracing::warn!(name, "a process did not stop in time, and is killed");
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A setting of a server, which has those of the playground.
/// Whether a variable is none for the servers of a playground: their settings, or whom a service tells that it has started.
fn is_setting(variable: &OsStr) -> bool {
    let variable = variable.as_encoded_bytes();
    variable.starts_with(b"RDB_PD_")
        || variable.starts_with(b"RDB_SERVER_")
        || variable == b"NOTIFY_SOCKET"
}

/// Where a server listens.
struct Listening {
    address: String,
    status: Option<String>,
}

/// The addresses in the line that a server logs when it listens.
fn listens_on(log: &Path) -> Option<Listening> {
    let log = fs::read_to_string(log).ok()?;
    let mut lines = log.lines();
    lines.find_map(|line| {
        let is_said = line.contains(" listening ") || line.contains(" serving Pd ");
        let field = |name| {
            let (_, rest) = line.split_once(name)?;
            rest.split(' ').next().map(str::to_owned)
        };
        Some(Listening {
            address: field(" addr=").filter(|_| is_said)?,
            status: field(" status_addr="),
        })
    })
}

/// Becomes a process of a playground if this one was started to do so. Returns only if it was, and failed.
pub(crate) fn become_process() -> Option<ExitCode> {
    let mut arguments = env::args_os().skip(1);
    if arguments.next()? != BECOME {
        return None;
    }
    let (parent, program) = (arguments.next()?, arguments.next()?);
    let error = match end_with_parent(&parent) {
        Ok(()) => Command::new(program).args(arguments).exec(),
        Err(error) => error,
    };
    eprintln!("cannot become a process of a playground: {error}");
    Some(ExitCode::FAILURE)
}

#[cfg(target_os = "linux")]
fn end_with_parent(parent: &OsString) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // It may have ended before that.
    let found = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().to_string());
    if found.is_none_or(|found| *parent != *found) {
        return Err(io::Error::other("the playground has ended"));
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn end_with_parent(_: &OsString) -> io::Result<()> {
    Ok(())
}
