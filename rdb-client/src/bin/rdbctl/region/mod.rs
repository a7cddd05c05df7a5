//! `rdbctl region …`: the key ranges, and who serves them.

use bytes::Bytes;
use clap::Subcommand;
use rdb_client::RegionRoute;
use serde::Serialize;

use crate::encoding::{KeyArgument, KeyEncoding};
use crate::failure::Failure;
use crate::output::{Output, Record, Row, cell, serialize_bytes};
use crate::session::Session;

#[derive(Debug, Subcommand)]
pub(crate) enum RegionCommand {
    /// List all regions in the order of their keys
    #[command(after_help = AFTER_HELP)]
    List,
    /// Show the region that holds a key, whether or not the key exists
    #[command(after_help = AFTER_HELP)]
    Show {
        /// The key
        key: KeyArgument,
    },
}

const AFTER_HELP: &str = "\
A region holds the keys from START up to, but without, END, of both keyspaces.
`-`: no bound; in JSON an empty key. EPOCH is the version of the region's peers
and that of its range. LEADER is the store that takes reads and writes.";

pub(crate) async fn run(
    command: RegionCommand,
    session: &Session,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    match command {
        RegionCommand::List => {
            let routes = session.connect().await?.regions().await?;
            let lines: Vec<Line> = routes.into_iter().map(Line::from).collect();
            output.table(&lines)
        }
        RegionCommand::Show { key } => {
            let key = session.key(key)?;
            let route = session.connect().await?.region(&key).await?;
            let route = route.ok_or_else(|| {
                let shown = session.shown(&key);
                Failure::not_found(format!(
                    "not found: no region holds {shown}; has a store registered?"
                ))
            })?;
            output.table(&[Line::from(route)])
        }
    }
}

#[derive(Serialize)]
struct Line {
    id: u64,
    #[serde(serialize_with = "serialize_bytes")]
    start_key: Bytes,
    #[serde(serialize_with = "serialize_bytes")]
    end_key: Bytes,
    epoch: Epoch,
    peers: Vec<Peer>,
    leader: Option<Leader>,
}

#[derive(Serialize)]
struct Epoch {
    conf_version: u64,
    version: u64,
}

#[derive(Serialize)]
struct Peer {
    id: u64,
    store_id: u64,
}

#[derive(Serialize)]
struct Leader {
    store_id: u64,
    address: String,
}

impl From<RegionRoute> for Line {
    fn from(RegionRoute { region, leader, .. }: RegionRoute) -> Self {
        let peers = region.peers.iter().map(|peer| Peer {
            id: peer.id,
            store_id: peer.store_id,
        });
        Self {
            id: region.id,
            epoch: Epoch {
                conf_version: region.epoch.conf_version,
                version: region.epoch.version,
            },
            peers: peers.collect(),
            start_key: region.start_key,
            end_key: region.end_key,
            leader: leader.map(|store| Leader {
                store_id: store.id,
                address: store.address,
            }),
        }
    }
}

impl Row for Line {
    const HEADINGS: &[&str] = &["ID", "START", "END", "EPOCH", "STORES", "LEADER"];
}

impl Record for Line {
    fn cells(&self, keys: KeyEncoding) -> Vec<String> {
        let bound = |key: &Bytes| cell((!key.is_empty()).then(|| keys.encode(key)));
        let stores: Vec<String> = self
            .peers
            .iter()
            .map(|peer| peer.store_id.to_string())
            .collect();
        let leader = self.leader.as_ref();
        vec![
            self.id.to_string(),
            bound(&self.start_key),
            bound(&self.end_key),
            format!("{}/{}", self.epoch.conf_version, self.epoch.version),
            stores.join(","),
            cell(leader.map(|leader| format!("{} ({})", leader.store_id, leader.address))),
        ]
    }
}
