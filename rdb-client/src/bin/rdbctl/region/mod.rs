//! `rdbctl region …`: the key ranges, who serves them, and whether their replicas hold the same data.

mod check;

use bytes::Bytes;
use clap::Subcommand;
use rdb_client::{Client, RegionRoute};
use rdb_proto::shown::size;
use serde::Serialize;

use crate::arguments::whole;
use crate::encoding::{KeyArgument, KeyEncoding};
use crate::failure::Failure;
use crate::output::{Output, Record, Row, cell, serialize_bytes};
use crate::session::Session;

#[derive(Debug, Subcommand)]
pub(crate) enum RegionCommand {
    /// List all regions in the order of their keys
    #[command(after_help = AFTER_HELP)]
    List,
    /// Show the region that holds a key, whether or not the key exists, or the one with an id
    #[command(after_help = AFTER_HELP)]
    Show {
        /// The key
        #[arg(required_unless_present = "id")]
        key: Option<KeyArgument>,
        /// The region's id
        #[arg(long, value_name = "N", conflicts_with = "key", value_parser = whole(1u64..))]
        id: Option<u64>,
    },
    /// Check that all replicas hold the same data at one position of their log
    #[command(after_help = check::AFTER_HELP)]
    Check {
        /// Only the region with this id
        #[arg(long, value_name = "N", value_parser = whole(1u64..))]
        id: Option<u64>,
    },
}

const AFTER_HELP: &str = "\
A region holds the keys from START up to, but without, END, of both keyspaces.
`-`: no bound; in JSON an empty key. EPOCH is the version of the region's peers
and that of its range. PEERS are its replicas, as PEER@STORE; one that has no
vote, since it has come in a short time ago or is about to leave, is a (learner).
One whose store is up, and that the leader has not heard of for 20 seconds, or that
does not catch up, is (absent): see its store's log. It is replaced as on a store
that is down, and shown then also while its store is silent.
LEADER is the store that takes reads and writes, TERM the Raft term that it was
elected in. SIZE is about what one replica takes on the disk, without what is not
flushed yet; its store estimates it now and then.";

pub(crate) async fn run(
    command: RegionCommand,
    session: &Session,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let routes = match command {
        RegionCommand::Check { id } => return check::run(id, session, output).await,
        RegionCommand::List => session.connect().await?.regions().await?,
        RegionCommand::Show { key: Some(key), .. } => {
            let key = session.key(key)?;
            let route = session.connect().await?.region(&key).await?;
            let route = route.ok_or_else(|| {
                let shown = session.shown(&key);
                Failure::not_found(format!(
                    "not found: no region holds {shown}; `rdbctl status` says what is missing"
                ))
            })?;
            vec![route]
        }
        RegionCommand::Show { key: None, id } => regions(&session.connect().await?, id).await?,
    };
    let lines: Vec<Line> = routes.into_iter().map(Line::from).collect();
    output.table(&lines)
}

/// The region with this id, or all of them; at least one.
pub(crate) async fn regions(client: &Client, id: Option<u64>) -> Result<Vec<RegionRoute>, Failure> {
    let mut routes = client.regions().await?;
    routes.retain(|route| id.is_none_or(|id| route.region.id == id));
    if routes.is_empty() {
        let message = match id {
            Some(id) => format!("not found: no region has id {id}"),
            None => {
                "not found: there is no region; `rdbctl status` says what is missing".to_owned()
            }
        };
        return Err(Failure::not_found(message));
    }
    Ok(routes)
}

#[derive(Debug, Serialize)]
pub(crate) struct Line {
    pub(crate) id: u64,
    #[serde(serialize_with = "serialize_bytes")]
    start_key: Bytes,
    #[serde(serialize_with = "serialize_bytes")]
    end_key: Bytes,
    epoch: Epoch,
    term: Option<u64>,
    pub(crate) peers: Vec<Peer>,
    pub(crate) leader: Option<Leader>,
    bytes: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Epoch {
    conf_version: u64,
    version: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct Peer {
    pub(crate) id: u64,
    pub(crate) store_id: u64,
    pub(crate) is_learner: bool,
    pub(crate) is_absent: bool,
    pub(crate) address: Option<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Leader {
    pub(crate) store_id: u64,
    pub(crate) address: String,
}

impl From<RegionRoute> for Line {
    fn from(route: RegionRoute) -> Self {
        let (region, stores, absent) = (route.region, route.peers, route.absent_peers);
        let peers = region.peers.iter().map(|peer| {
            let store = stores.iter().find(|store| store.id == peer.store_id);
            Peer {
                id: peer.id,
                store_id: peer.store_id,
                is_learner: peer.is_learner,
                is_absent: absent.contains(&peer.id),
                address: store.map(|store| store.address.clone()),
            }
        });
        Self {
            id: region.id,
            epoch: Epoch {
                conf_version: region.epoch.conf_version,
                version: region.epoch.version,
            },
            term: route.term,
            peers: peers.collect(),
            start_key: region.start_key,
            end_key: region.end_key,
            leader: route.leader.map(|store| Leader {
                store_id: store.id,
                address: store.address,
            }),
            bytes: route.bytes,
        }
    }
}

#[cfg(test)]
impl Line {
    /// The only region of a cluster.
    pub(crate) fn of_everything(peers: Vec<Peer>, leader: Option<Leader>) -> Self {
        Self {
            id: 1,
            start_key: Bytes::new(),
            end_key: Bytes::new(),
            epoch: Epoch {
                conf_version: 2,
                version: 1,
            },
            term: None,
            peers,
            leader,
            bytes: None,
        }
    }
}

impl Row for Line {
    const HEADINGS: &[&str] = &[
        "ID", "START", "END", "EPOCH", "TERM", "PEERS", "LEADER", "SIZE",
    ];
}

impl Record for Line {
    fn cells(&self, keys: KeyEncoding) -> Vec<String> {
        let bound = |key: &Bytes| cell((!key.is_empty()).then(|| keys.encode(key)));
        let peers = self.peers.iter();
        let peers = peers.map(|peer| {
            let mark = if peer.is_learner {
                "(learner)"
            } else if peer.is_absent {
                "(absent)"
            } else {
                ""
            };
            format!("{}@{}{mark}", peer.id, peer.store_id)
        });
        let leader = self.leader.as_ref();
        vec![
            self.id.to_string(),
            bound(&self.start_key),
            bound(&self.end_key),
            format!("{}/{}", self.epoch.conf_version, self.epoch.version),
            cell(self.term.map(|term| term.to_string())),
            peers.collect::<Vec<_>>().join(","),
            cell(leader.map(|leader| format!("{} ({})", leader.store_id, leader.address))),
            cell(self.bytes.map(size)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_without_a_vote_is_marked_and_so_is_one_that_does_not_live() {
        let peer = |id, is_learner, is_absent| Peer {
            id,
            store_id: id + 10,
            is_learner,
            is_absent,
            address: None,
        };
        let peers = vec![
            peer(1, false, false),
            peer(2, true, false),
            peer(3, false, true),
        ];
        let line = Line {
            bytes: Some(3 << 20),
            ..Line::of_everything(peers, None)
        };
        let cells = line.cells(KeyEncoding::Text);
        assert_eq!(
            cells,
            [
                "1",
                "-",
                "-",
                "2/1",
                "-",
                "1@11,2@12(learner),3@13(absent)",
                "-",
                "3.0 MiB"
            ]
        );
    }
}
