//! `rdbctl operator …`: requested changes of single regions.

use std::fmt;

use clap::Subcommand;
use rdb_client::{Operator, OperatorState};
use rdb_proto::shown::time;
use serde::Serialize;

use crate::arguments::whole;
use crate::encoding::KeyEncoding;
use crate::failure::Failure;
use crate::output::{Output, Record, Row, cell};
use crate::region::regions;
use crate::session::Session;
use crate::store::milliseconds;

#[derive(Debug, Subcommand)]
pub(crate) enum OperatorCommand {
    /// Have a store lead a region, and wait until it does
    #[command(after_help = "\
The store needs a replica of the region, and the leader has to have heard of it
lately. Reads and writes of the region wait meanwhile; clients follow by
themselves. `region list` shows it with the store's next heartbeat.

Example:
  rdbctl operator transfer-leader 1 2   # region 1, to store 2")]
    TransferLeader {
        /// The region's id
        #[arg(value_parser = whole(1u64..))]
        region: u64,
        /// The id of the store that is to lead
        #[arg(value_parser = whole(1u64..))]
        store: u64,
    },
    /// Have a region get a replica on a store
    #[command(after_help = concat!("\
If the region has more replicas then than rdb-pd --replicas says, it loses one:
that on a store that is down, leaving or silent, else the oldest that does not lead.
To say which, use move-peer.

", under_way!()))]
    AddPeer {
        /// The region's id
        #[arg(value_parser = whole(1u64..))]
        region: u64,
        /// The id of the store
        #[arg(value_parser = whole(1u64..))]
        store: u64,
    },
    /// Take the replica of a region from a store
    #[command(after_help = concat!("\
If the region has fewer replicas then than rdb-pd --replicas says, it gets another
one: on another store if one is up that has none, else on the same. Meanwhile it
survives fewer losses than before; move-peer adds first.

", under_way!()))]
    RemovePeer {
        /// The region's id
        #[arg(value_parser = whole(1u64..))]
        region: u64,
        /// The id of the store
        #[arg(value_parser = whole(1u64..))]
        store: u64,
    },
    /// Move the replica of a region from one store to another
    #[command(after_help = concat!("\
The other store gets a replica first, unless it has one. If the first store leads the
region, it hands over before it loses its own.

", under_way!()))]
    MovePeer {
        /// The region's id
        #[arg(value_parser = whole(1u64..))]
        region: u64,
        /// The id of the store that has a replica
        #[arg(value_parser = whole(1u64..))]
        from: u64,
        /// The id of the store that gets one
        #[arg(value_parser = whole(1u64..))]
        to: u64,
    },
    /// List the changes under way, and those that ended last
    #[command(after_help = "\
First those that were asked for, on any machine; AGE is the time since then. Then
those that the placement driver makes by itself, or would if it could. Then those
that were asked for and are done, cancelled or timed-out (after 10 minutes). STATUS
says what is being done, or what a change waits for.
A placement driver that is started anew has forgotten what was asked for.")]
    List,
    /// Cancel the change of a region that is under way
    #[command(after_help = "\
What was done of it stays, but a learner that nothing needs or that is silent is
removed. Once more, it says that it was cancelled before.")]
    Cancel {
        /// The region's id
        #[arg(value_parser = whole(1u64..))]
        region: u64,
    },
}

/// The part of the help that changes of members share.
macro_rules! under_way {
    () => {
        "\
The command returns at once, also if the region is so already. The change is made
within 10 minutes or given up, sooner if the new replica does not catch up;
`operator list` shows how far it is. Nothing else of the region changes meanwhile. A
placement driver that is started anew has forgotten it: ask again.

Example:
  rdbctl operator move-peer 1 2 4   # region 1, from store 2 to store 4"
    };
}
use under_way;

pub(crate) async fn run(
    command: OperatorCommand,
    session: &Session,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let client = session.connect().await?;
    let changed = match command {
        OperatorCommand::TransferLeader { region, store } => {
            for route in regions(&client, Some(region)).await? {
                let term = client.transfer_leader(&route, store).await?;
                output.event(&Leads {
                    store_id: store,
                    region_id: region,
                    term,
                })?;
            }
            return Ok(());
        }
        OperatorCommand::List => {
            let operators = client.operators().await?.into_iter();
            let lines: Vec<Line> = operators.map(Line::from).collect();
            return output.table(&lines);
        }
        OperatorCommand::AddPeer { region, store } => client.add_peer(region, store).await?,
        OperatorCommand::RemovePeer { region, store } => client.remove_peer(region, store).await?,
        OperatorCommand::MovePeer { region, from, to } => {
            client.move_peer(region, from, to).await?
        }
        OperatorCommand::Cancel { region } => client.cancel_operator(region).await?,
    };
    output.event(&Line::from(changed))
}

#[derive(Serialize)]
struct Leads {
    store_id: u64,
    region_id: u64,
    term: u64,
}

impl fmt::Display for Leads {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            store_id,
            region_id,
            term,
        } = self;
        write!(
            formatter,
            "store {store_id} leads region {region_id} in term {term}"
        )
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct Line {
    region_id: u64,
    add_store_id: Option<u64>,
    remove_store_id: Option<u64>,
    state: &'static str,
    status: String,
    age_ms: u64,
    ended_age_ms: Option<u64>,
}

impl From<Operator> for Line {
    fn from(operator: Operator) -> Self {
        Self {
            region_id: operator.region_id,
            add_store_id: operator.add_store_id,
            remove_store_id: operator.remove_store_id,
            state: state_name(operator.state),
            status: operator.status,
            age_ms: milliseconds(operator.age),
            ended_age_ms: operator.ended_age.map(milliseconds),
        }
    }
}

impl Line {
    fn change(&self) -> Change {
        match (self.add_store_id, self.remove_store_id) {
            (Some(to), Some(from)) => Change::Move { from, to },
            (Some(to), None) => Change::Add { to },
            (None, Some(from)) => Change::Remove { from },
            (None, None) => Change::ByItself,
        }
    }
}

/// What was asked for.
#[derive(PartialEq)]
enum Change {
    Move {
        from: u64,
        to: u64,
    },
    Add {
        to: u64,
    },
    Remove {
        from: u64,
    },
    /// Nobody has asked for it.
    ByItself,
}

impl fmt::Display for Change {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Move { from, to } => write!(formatter, "move-peer {from} to {to}"),
            Self::Add { to } => write!(formatter, "add-peer {to}"),
            Self::Remove { from } => write!(formatter, "remove-peer {from}"),
            Self::ByItself => formatter.write_str("by itself"),
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (region_id, state) = (self.region_id, self.state);
        write!(formatter, "region {region_id}: {}: {state}", self.change())?;
        if self.status.is_empty() {
            return Ok(());
        }
        write!(formatter, "; {}", self.status)
    }
}

impl Row for Line {
    const HEADINGS: &[&str] = &["REGION", "CHANGE", "STATE", "AGE", "STATUS"];
}

impl Record for Line {
    fn cells(&self, _: KeyEncoding) -> Vec<String> {
        vec![
            self.region_id.to_string(),
            self.change().to_string(),
            self.state.to_owned(),
            cell((self.change() != Change::ByItself).then(|| time(self.age_ms))),
            self.status.clone(),
        ]
    }
}

fn state_name(state: OperatorState) -> &'static str {
    match state {
        OperatorState::Running => "running",
        OperatorState::Done => "done",
        OperatorState::Cancelled => "cancelled",
        OperatorState::TimedOut => "timed-out",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{Format, printed};

    #[test]
    fn a_change_is_told_in_words_as_a_row_and_as_an_object() {
        let line = Line {
            region_id: 1,
            add_store_id: Some(4),
            remove_store_id: None,
            state: state_name(OperatorState::Running),
            status: "waits: store 4 is silent".to_owned(),
            age_ms: 5_000,
            ended_age_ms: None,
        };
        let told = "region 1: add-peer 4: running; waits: store 4 is silent";
        assert_eq!(line.to_string(), told);
        let cells = line.cells(KeyEncoding::Text);
        assert_eq!(cells.len(), Line::HEADINGS.len());
        let printed = printed(Format::Json, |output| output.event(&line).expect("printed"));
        assert_eq!(
            printed,
            "{\"region_id\":1,\"add_store_id\":4,\"remove_store_id\":null,\"state\":\"running\",\
             \"status\":\"waits: store 4 is silent\",\"age_ms\":5000,\"ended_age_ms\":null}\n"
        );
    }
}
