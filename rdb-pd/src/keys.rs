//! The placement driver's key schema: raw keys in its own storage. Integers are big-endian.
//!
//! | key | value |
//! | --- | --- |
//! | `cluster/id` | `[u64]` the cluster's id, never 0 |
//! | `cluster/counters` | protobuf [`Counters`]: the last ids that were given out |
//! | `cluster/store/[u64 store id]` | protobuf [`StoreRecord`] |
//! | `cluster/region/[u64 region id]` | protobuf `metapb.Region` |
//! | `cluster/new-peers/[u64 region id]` | protobuf [`NewPeers`] |
//! | `cluster/away/[u64 region id]` | protobuf [`AwayVoters`] |
//! | `auth/rights` | protobuf `authpb.Rights`: all users, and what they are granted; none until there was one, or a restored copy |
//! | `tso/bound` | `[u64]` Unix milliseconds: no timestamp at or above it was ever handed out |

use bytes::Bytes;
use rdb_proto::metapb::Peer;

/// The cluster's id.
pub const CLUSTER_ID: &[u8] = b"cluster/id";
/// The id counters.
pub const COUNTERS: &[u8] = b"cluster/counters";
/// The bound of timestamps.
pub const TSO_BOUND: &[u8] = b"tso/bound";
/// All users, and what they are granted.
pub const RIGHTS: &[u8] = b"auth/rights";
/// The prefix of each store's key.
pub const STORE_PREFIX: &[u8] = b"cluster/store/";
/// The prefix of each region's key.
pub const REGION_PREFIX: &[u8] = b"cluster/region/";
/// The prefix of the key of each region's new peers.
pub const NEW_PEERS_PREFIX: &[u8] = b"cluster/new-peers/";
/// The prefix of the key of the voters of each region that were away.
pub const AWAY_PREFIX: &[u8] = b"cluster/away/";

/// The last ids that were given out; none is ever given out again.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Counters {
    /// The last store's id.
    #[prost(uint64, tag = "1")]
    pub store_id: u64,
    /// The last region's id.
    #[prost(uint64, tag = "2")]
    pub region_id: u64,
    /// The last peer's id.
    #[prost(uint64, tag = "3")]
    pub peer_id: u64,
}

/// The durable record of a store. `cluster/stores.rs` has the rules of incarnations.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct StoreRecord {
    /// Never 0.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Where clients reach it.
    #[prost(string, tag = "2")]
    pub address: String,
    /// The incarnation that was accepted last. 0: not known, so any may be the next.
    #[prost(uint64, tag = "5")]
    pub incarnation: u64,
    /// The last incarnation that the store has named as kept in its data directory. 0: none yet.
    #[prost(uint64, tag = "9")]
    pub kept_incarnation: u64,
    /// Incarnations that were accepted after the kept one and before the present one, oldest first. The data directory may
    /// hold any of them.
    #[prost(uint64, repeated, tag = "10")]
    pub unkept_incarnations: Vec<u64>,
    /// It is leaving: its replicas move to other stores.
    #[prost(bool, tag = "11")]
    pub is_leaving: bool,
    /// It has left. Its id and what its data directory holds are not taken any more.
    #[prost(bool, tag = "12")]
    pub has_left: bool,
}

/// The peers that the leader of a region may be about to add.
#[derive(Clone, PartialEq, prost::Message)]
pub struct NewPeers {
    /// Never 0.
    #[prost(uint64, tag = "1")]
    pub region_id: u64,
    /// The `conf_version` of the region that they are for. At any other one they are obsolete.
    #[prost(uint64, tag = "2")]
    pub conf_version: u64,
    /// Each on another store, the last one last.
    #[prost(message, repeated, tag = "3")]
    pub peers: Vec<Peer>,
}

/// The voters of a region that were away. A region without any has no record.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct AwayVoters {
    /// Never 0.
    #[prost(uint64, tag = "1")]
    pub region_id: u64,
    /// In the order of their ids.
    #[prost(message, repeated, tag = "2")]
    pub voters: Vec<AwayVoter>,
}

/// A voter that was away, see `cluster/lagging.rs`.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct AwayVoter {
    /// Its id.
    #[prost(uint64, tag = "1")]
    pub peer_id: u64,
    /// For at least how many eighths of the time that makes it lost: 1 to 7.
    #[prost(uint32, tag = "2")]
    pub away_eighths: u32,
}

/// A store's key.
pub fn store(id: u64) -> Bytes {
    [STORE_PREFIX, &id.to_be_bytes()].concat().into()
}

/// A region's key.
pub fn region(id: u64) -> Bytes {
    [REGION_PREFIX, &id.to_be_bytes()].concat().into()
}

/// The key of a region's new peers.
pub fn new_peers(region_id: u64) -> Bytes {
    [NEW_PEERS_PREFIX, &region_id.to_be_bytes()].concat().into()
}

/// The key of the voters of a region that were away.
pub fn away(region_id: u64) -> Bytes {
    [AWAY_PREFIX, &region_id.to_be_bytes()].concat().into()
}

/// A `[u64]` value.
pub fn encode_u64(value: u64) -> Bytes {
    Bytes::copy_from_slice(&value.to_be_bytes())
}

/// Reads a `[u64]` value; `None` when it has another length.
pub fn decode_u64(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;
    use rdb_proto::authpb::{Grant, Keyspace, Rights, Role, User};

    use super::*;

    #[test]
    fn golden_bytes() {
        assert_eq!(store(1), &b"cluster/store/\0\0\0\0\0\0\0\x01"[..]);
        assert_eq!(region(258), &b"cluster/region/\0\0\0\0\0\0\x01\x02"[..]);
        assert_eq!(new_peers(1), &b"cluster/new-peers/\0\0\0\0\0\0\0\x01"[..]);
        assert_eq!(away(1), &b"cluster/away/\0\0\0\0\0\0\0\x01"[..]);
        assert_eq!(encode_u64(258), &b"\0\0\0\0\0\0\x01\x02"[..]);
        let record = StoreRecord {
            id: 1,
            address: "a:1".to_owned(),
            incarnation: 5,
            kept_incarnation: 3,
            unkept_incarnations: vec![4, 200],
            ..StoreRecord::default()
        };
        let before = b"\x08\x01\x12\x03a:1\x28\x05\x48\x03\x52\x03\x04\xc8\x01";
        assert_eq!(record.encode_to_vec(), before);
        let leaving = StoreRecord {
            is_leaving: true,
            ..record.clone()
        };
        assert_eq!(leaving.encode_to_vec(), [&before[..], b"\x58\x01"].concat());
        let left = StoreRecord {
            has_left: true,
            ..leaving
        };
        assert_eq!(
            left.encode_to_vec(),
            [&before[..], b"\x58\x01\x60\x01"].concat()
        );
        assert_eq!(StoreRecord::decode(&before[..]), Ok(record));
        let counters = Counters {
            store_id: 1,
            region_id: 2,
            peer_id: 3,
        };
        assert_eq!(counters.encode_to_vec(), b"\x08\x01\x10\x02\x18\x03");
        let new_peers = NewPeers {
            region_id: 1,
            conf_version: 2,
            peers: vec![Peer {
                id: 3,
                store_id: 4,
                learner: true,
            }],
        };
        assert_eq!(
            new_peers.encode_to_vec(),
            b"\x08\x01\x10\x02\x1a\x06\x08\x03\x10\x04\x18\x01"
        );
        let away = AwayVoters {
            region_id: 1,
            voters: vec![AwayVoter {
                peer_id: 3,
                away_eighths: 1,
            }],
        };
        assert_eq!(away.encode_to_vec(), b"\x08\x01\x12\x04\x08\x03\x10\x01");
    }

    #[test]
    fn golden_bytes_of_rights() {
        assert_eq!(RIGHTS, b"auth/rights");
        let grant = |role: Role, keyspace: Keyspace, prefix: &'static [u8]| Grant {
            role: role.into(),
            keyspace: keyspace.into(),
            prefix: Bytes::from_static(prefix),
        };
        let ada = User {
            name: "ada".to_owned(),
            token_hashes: vec![Bytes::from_static(&[7; 32])],
            subject: String::new(),
            grants: vec![grant(Role::Admin, Keyspace::All, b"")],
        };
        let bob = User {
            name: "bob".to_owned(),
            token_hashes: Vec::new(),
            subject: "CN=b".to_owned(),
            grants: vec![grant(Role::Reader, Keyspace::Versioned, b"p/")],
        };
        let rights = Rights {
            version: 300,
            users: vec![ada, bob],
        };
        let record = [
            &b"\x08\xac\x02"[..],
            b"\x12\x2b\x0a\x03ada\x12\x20",
            &[7; 32],
            b"\x22\x02\x08\x03",
            b"\x12\x15\x0a\x03bob\x1a\x04CN=b\x22\x08\x08\x01\x10\x02\x1a\x02p/",
        ]
        .concat();
        assert_eq!(rights.encode_to_vec(), record);
        assert_eq!(Rights::decode(&record[..]), Ok(rights));
    }

    proptest! {
        #[test]
        fn integers_read_back(value: u64, garbage: Vec<u8>) {
            prop_assert_eq!(decode_u64(&encode_u64(value)), Some(value));
            prop_assert_eq!(decode_u64(&garbage).is_some(), garbage.len() == 8);
        }
    }
}
