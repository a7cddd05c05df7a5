//! What a playground prints, as it happens.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

use super::tokens::Tokens;
use crate::cert::Certificates;

/// With fewer, no majority is left without one.
const STORES_TO_LOSE_ONE: usize = 3;

/// What to try where rights are enforced.
const USERS: &str = "
  rdbctl auth user list
  rdbctl auth user add ada --token-out ada.token
  rdbctl auth grant ada reader --keyspace raw --prefix k
  sleep 3    # stores ask for changes every two seconds
  rdbctl --token-file ada.token raw put k1 v2    # not allowed";

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Event {
    /// A process listens.
    Started {
        name: String,
        address: String,
        /// Where its status pages are.
        status: Option<String>,
        pid: u32,
    },
    /// The cluster does not serve yet, for longer than usual.
    Waiting { cause: String },
    /// The cluster serves.
    Ready {
        pd: String,
        store_count: usize,
        directory: PathBuf,
        is_kept: bool,
        /// `None`: connections are plain text.
        #[serde(skip_serializing_if = "Option::is_none")]
        certificates: Option<Certificates>,
        /// `None`: rights are not enforced.
        #[serde(skip_serializing_if = "Option::is_none")]
        tokens: Option<Tokens>,
    },
    /// A region has another leader, or the same one in another term.
    Leader {
        region_id: u64,
        store_id: u64,
        /// `None`: its process has ended.
        name: Option<String>,
        address: String,
        term: u64,
    },
    /// A process has ended by itself, or somebody has ended it.
    Ended {
        name: String,
        cause: String,
        /// How many processes go on.
        others: usize,
    },
    /// All processes have ended, as they were told to.
    Stopped,
}

impl fmt::Display for Event {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started {
                name,
                address,
                status,
                pid,
            } => {
                write!(formatter, "{name:8} listens on {address}, process {pid}")?;
                match status {
                    Some(status) => write!(formatter, ", metrics at http://{status}/metrics"),
                    None => Ok(()),
                }
            }
            Self::Waiting { cause } => {
                write!(formatter, "waiting until the cluster serves: {cause}")
            }
            Self::Ready {
                pd,
                store_count,
                directory,
                is_kept,
                certificates,
                tokens,
            } => {
                let certificates = certificates.as_ref();
                let tls = certificates.map_or_else(String::new, |tls| format!("\n  {tls}"));
                let tokens = tokens.as_ref();
                let (token, users) = match tokens {
                    Some(tokens) => (format!("\n  {tokens}"), USERS),
                    None => (String::new(), ""),
                };
                let directory = directory.display();
                let fate = if *is_kept {
                    "kept"
                } else {
                    "removed at the end"
                };
                let rest = if *store_count < STORES_TO_LOSE_ONE {
                    "# who leads?"
                } else {
                    "\
# who leads? kill -9 that process, and then
  rdbctl raw get k1      # takes some six seconds: another store has to lead first"
                };
                write!(
                    formatter,
                    "
The cluster serves. Data and logs are in {directory}, which is {fate}.
Try in another terminal:

  export RDBCTL_PD={pd}{tls}{token}
  rdbctl raw put k1 v1
  rdbctl raw get k1
  rdbctl region check    # do all replicas hold the same?
  rdbctl region list     {rest}{users}

Ctrl-C stops it.
"
                )
            }
            Self::Leader {
                region_id,
                store_id,
                name,
                address,
                term,
            } => {
                let name = name.as_deref().unwrap_or("a process that has ended");
                write!(
                    formatter,
                    "region {region_id} is led by store {store_id} ({name}, {address}) in term {term}"
                )
            }
            Self::Ended {
                cause, others: 0, ..
            } => write!(formatter, "{cause}"),
            Self::Ended { cause, .. } => write!(formatter, "{cause}; the others go on"),
            Self::Stopped => write!(formatter, "stopped"),
        }
    }
}
