//! Asks a cluster for its state, and makes do with the parts that answer.

use std::time::Duration;

use rdb_client::{Client, Error, OperatorState};
use rdb_proto::findings::Finding;
use tokio::time::{Instant, timeout_at};

use crate::encoding::escape;
use crate::failure::Failure;
use crate::session::Session;
use crate::{health, operator, region, store};

/// The answers to all questions, as the other commands show them.
#[derive(Debug)]
pub(super) struct Survey {
    /// One for each address of a placement driver, and for each known store.
    pub(super) processes: Vec<health::Line>,
    pub(super) catalogue: Result<Catalogue, Failure>,
}

/// What the placement driver knows.
#[derive(Debug)]
pub(super) struct Catalogue {
    pub(super) stores: Vec<store::Line>,
    pub(super) regions: Vec<region::Line>,
    /// Those that are under way. `None`: they are told to administrators alone.
    pub(super) operators: Option<Vec<operator::Line>>,
    /// What it says is wrong.
    pub(super) findings: Vec<Finding>,
}

impl Survey {
    /// Asks all at the same time, for no longer than a call of `session` may take.
    ///
    /// # Errors
    ///
    /// [`Failure::Usage`] when there is nobody to ask.
    pub(super) async fn of(session: &Session) -> Result<Self, Failure> {
        let until = Instant::now() + session.timeout();
        let asked = timeout_at(until, Catalogue::of(session));
        let (processes, answered) = futures::join!(session.health(), asked);
        let catalogue = match answered {
            Ok(answered) => answered,
            Err(_) => Err(late(session.timeout())),
        };
        let processes = processes?.iter().map(health::Line::from).collect();
        Ok(Self {
            processes,
            catalogue,
        })
    }

    /// Each address of a placement driver.
    pub(super) fn placement_drivers(&self) -> impl Iterator<Item = &health::Line> {
        let processes = self.processes.iter();
        processes.filter(|process| process.store_id.is_none())
    }

    /// What a store answers; `None`: it was not asked.
    pub(super) fn store(&self, id: u64) -> Option<&health::Line> {
        let mut processes = self.processes.iter();
        processes.find(|process| process.store_id == Some(id))
    }
}

impl Catalogue {
    async fn of(session: &Session) -> Result<Self, Failure> {
        let client = session.connect().await?;
        let (stores, regions, operators, findings) = futures::try_join!(
            client.stores(),
            client.regions(),
            under_way(&client),
            client.findings()
        )?;
        let stores = stores.into_iter();
        Ok(Self {
            stores: stores
                .map(|store| store::Line::new(store, &regions))
                .collect(),
            regions: regions.into_iter().map(region::Line::from).collect(),
            operators,
            findings: findings.iter().map(shown).collect(),
        })
    }
}

/// A finding of the placement driver, fit to be shown.
fn shown(finding: &rdb_client::Finding) -> Finding {
    let (what, to_do) = (escaped(&finding.what), escaped(&finding.to_do));
    if finding.is_alarm {
        Finding::alarm(what, to_do)
    } else {
        Finding::notice(what, to_do)
    }
}

fn escaped(text: &str) -> String {
    escape(text.as_bytes())
}

async fn under_way(client: &Client) -> Result<Option<Vec<operator::Line>>, Error> {
    let operators = match client.operators().await {
        Err(Error::PermissionDenied { .. }) => return Ok(None),
        answered => answered?.into_iter(),
    };
    let under_way = operators.filter(|operator| operator.state == OperatorState::Running);
    Ok(Some(under_way.map(operator::Line::from).collect()))
}

fn late(patience: Duration) -> Failure {
    Failure::failed(format!(
        "the placement driver gave no answer within {patience:?}"
    ))
}
