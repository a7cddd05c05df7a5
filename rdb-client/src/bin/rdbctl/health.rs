//! `rdbctl health`: whether each process of the cluster does its work.

use rdb_client::{Health, ProcessHealth, Role};
use serde::Serialize;

use crate::encoding::{KeyEncoding, escape};
use crate::failure::Failure;
use crate::output::{Output, Record, Row, cell};
use crate::session::Session;

pub(crate) const AFTER_HELP: &str = "\
Lists every placement driver address and every registered store, and asks each
once. When no placement driver answers, the stores are not known. Exit code 0
only when each process is serving and there is a store; 1 otherwise.

STATUS:
  serving        it does its work; a cause says what to look at all the same
  not_serving    it answers that it does not
  unreachable    it does not answer
  wrong_process  another process answers at its address

Examples:
  rdbctl health
  until rdbctl health --timeout 1s; do sleep 1; done";

pub(crate) async fn run(session: &Session, output: &mut Output<'_>) -> Result<(), Failure> {
    let processes = session.health().await?;
    let lines: Vec<Line> = processes.iter().map(Line::from).collect();
    output.table(&lines)?;
    verdict(&lines)
}

fn verdict(processes: &[Line]) -> Result<(), Failure> {
    let failing = processes.iter().filter(|line| line.status != SERVING);
    let failing = failing.count();
    let has_store = processes.iter().any(|line| line.store_id.is_some());
    match (failing, has_store) {
        (0, true) => Ok(()),
        (0, false) => Err(Failure::failed(
            "no store is known: none has registered with the placement driver yet, or it does not tell this client",
        )),
        (failing, has_store) => {
            let stores = if has_store {
                ""
            } else {
                ", and no store is known"
            };
            let all = processes.len();
            Err(Failure::failed(format!(
                "{failing} of {all} processes are not serving{stores}"
            )))
        }
    }
}

/// The status of a process that does its work.
pub(crate) const SERVING: &str = "serving";

#[derive(Debug, Serialize)]
pub(crate) struct Line {
    pub(crate) role: &'static str,
    pub(crate) store_id: Option<u64>,
    pub(crate) address: String,
    pub(crate) status: &'static str,
    /// Why it is not serving, or what has to be looked at though it is.
    pub(crate) cause: Option<String>,
    /// All that has to be looked at, if it is serving.
    #[serde(skip)]
    pub(crate) warnings: Vec<String>,
}

impl From<&ProcessHealth> for Line {
    fn from(process: &ProcessHealth) -> Self {
        let (role, store_id) = match process.role {
            Role::PlacementDriver => ("pd", None),
            Role::Store { store_id } => ("store", Some(store_id)),
            _ => ("unknown", None),
        };
        let mut warnings = Vec::new();
        let (status, cause) = match &process.health {
            Health::Serving => {
                warnings.clone_from(&process.warnings);
                let cause = (!warnings.is_empty()).then(|| warnings.join("; "));
                (SERVING, cause)
            }
            Health::NotServing { cause } => ("not_serving", Some(cause.clone())),
            Health::Unreachable { cause } => ("unreachable", Some(cause.clone())),
            Health::WrongProcess { cause } => ("wrong_process", Some(cause.clone())),
            _ => ("unknown", None),
        };
        Self {
            role,
            store_id,
            address: process.address.clone(),
            status,
            cause,
            warnings,
        }
    }
}

impl Row for Line {
    const HEADINGS: &[&str] = &["ROLE", "ID", "ADDRESS", "STATUS", "CAUSE"];
}

impl Record for Line {
    fn cells(&self, _: KeyEncoding) -> Vec<String> {
        vec![
            self.role.to_owned(),
            cell(self.store_id.map(|id| id.to_string())),
            self.address.clone(),
            self.status.to_owned(),
            cell(self.cause.as_deref().map(|cause| escape(cause.as_bytes()))),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(store_id: Option<u64>, status: &'static str) -> Line {
        Line {
            role: "any",
            store_id,
            address: "127.0.0.1:1".to_owned(),
            status,
            cause: None,
            warnings: Vec::new(),
        }
    }

    #[test]
    fn a_cluster_is_healthy_when_all_processes_serve_and_there_is_a_store() {
        let pd = || line(None, SERVING);
        let store = |status| line(Some(1), status);

        assert!(verdict(&[pd(), store(SERVING)]).is_ok());
        for unhealthy in [
            vec![pd()],
            vec![pd(), store("not_serving")],
            vec![pd(), store(SERVING), store("unreachable")],
        ] {
            assert!(verdict(&unhealthy).is_err(), "{unhealthy:?}");
        }
    }

    #[test]
    fn a_cause_stays_on_its_line() {
        let line = Line {
            cause: Some("refused\n\x1b[31m".to_owned()),
            ..line(None, "unreachable")
        };
        assert_eq!(
            line.cells(KeyEncoding::Text).join(" "),
            r"any - 127.0.0.1:1 unreachable refused\n\x1b[31m"
        );
    }
}
