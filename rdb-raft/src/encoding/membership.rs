//! A membership:
//!
//! ```text
//! [u8 format = 1]
//! [u32 count] count × configuration      two while the voters change, else one
//! [u32 count] count × ([u64 peer id][u64 store id])      all peers, learners too
//!
//! configuration  [u32 count] count × [u64 peer id]       its voters
//! ```
//!
//! Peers are in ascending order of their ids.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, BufMut};

use super::{DecodeError, Problem, decode_all};
use crate::types::{Membership, StoreNode};

const FORMAT: u8 = 1;

/// Appends the encoding that the module documents.
pub fn encode(membership: &Membership, encoded: &mut Vec<u8>) {
    encoded.put_u8(FORMAT);
    let configurations = membership.get_joint_config();
    encoded.put_u32(configurations.len() as u32);
    for voters in configurations {
        encoded.put_u32(voters.len() as u32);
        for peer_id in voters {
            encoded.put_u64(*peer_id);
        }
    }
    encoded.put_u32(membership.nodes().count() as u32);
    for (peer_id, node) in membership.nodes() {
        encoded.put_u64(*peer_id);
        encoded.put_u64(node.store_id);
    }
}

/// The membership of its encoding.
///
/// # Errors
///
/// When the bytes are not what the module documents, a configuration has no voters, or a voter is not among the peers.
pub fn decode(encoded: &[u8]) -> Result<Membership, DecodeError> {
    decode_all("membership", FORMAT, encoded, decode_fields)
}

fn decode_fields(rest: &mut &[u8]) -> Result<Membership, Problem> {
    let configurations = rest.try_get_u32()?;
    let configurations = (0..configurations).map(|_| decode_voters(rest));
    let configurations = configurations.collect::<Result<Vec<_>, _>>()?;
    let nodes = decode_nodes(rest)?;
    Membership::new(configurations, nodes)
        .map_err(|_| Problem("a configuration has no voters, or a voter has no store"))
}

fn decode_voters(rest: &mut &[u8]) -> Result<BTreeSet<u64>, Problem> {
    let mut voters = BTreeSet::new();
    for _ in 0..rest.try_get_u32()? {
        let peer_id = rest.try_get_u64()?;
        check_order(voters.last(), peer_id)?;
        voters.insert(peer_id);
    }
    Ok(voters)
}

fn decode_nodes(rest: &mut &[u8]) -> Result<BTreeMap<u64, StoreNode>, Problem> {
    let mut nodes = BTreeMap::new();
    for _ in 0..rest.try_get_u32()? {
        let (peer_id, store_id) = (rest.try_get_u64()?, rest.try_get_u64()?);
        check_order(nodes.last_key_value().map(|(last, _)| last), peer_id)?;
        nodes.insert(peer_id, StoreNode { store_id });
    }
    Ok(nodes)
}

fn check_order(last: Option<&u64>, peer_id: u64) -> Result<(), Problem> {
    if last.is_some_and(|last| *last >= peer_id) {
        return Err(Problem("its peers are not in ascending order"));
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::collection::{btree_map, btree_set, vec};
    use proptest::prelude::*;

    use super::*;

    /// Voters 1 and 2 become voters 2 and 3; 4 is a learner.
    fn joint() -> Membership {
        let nodes = (1..=4).map(|id| (id, StoreNode { store_id: 10 + id }));
        let configurations = vec![[1, 2].into(), [2, 3].into()];
        Membership::new(configurations, nodes.collect::<BTreeMap<_, _>>()).unwrap()
    }

    /// These bytes are in logs. They never change; a new format is tested beside them.
    const FORMAT_1: &[u8] = b"\x01\0\0\0\x02\
        \0\0\0\x02\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\
        \0\0\0\x02\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03\
        \0\0\0\x04\
        \0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x0b\
        \0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x0c\
        \0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x0d\
        \0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0\x0e";

    fn encoded(membership: &Membership) -> Vec<u8> {
        let mut encoded = Vec::new();
        encode(membership, &mut encoded);
        encoded
    }

    #[test]
    fn golden_bytes_of_format_1() {
        assert_eq!(encoded(&joint()), FORMAT_1);
        assert_eq!(decode(FORMAT_1), Ok(joint()));
    }

    #[test]
    fn what_cannot_have_been_written_is_refused() {
        let problem = |bytes: &[u8]| decode(bytes).unwrap_err().problem;
        assert_eq!(problem(b""), "its format is unknown");
        assert_eq!(problem(b"\x02"), "its format is unknown");
        assert_eq!(problem(&[FORMAT_1, b"\0"].concat()), "bytes are left over");
        for length in 1..FORMAT_1.len() {
            assert_eq!(problem(&FORMAT_1[..length]), "it ends too early");
        }
        // 4 × 10⁹ configurations, and as many voters in one.
        assert_eq!(problem(b"\x01\xff\xff\xff\xff"), "it ends too early");
        let voters = b"\x01\0\0\0\x01\xff\xff\xff\xff";
        assert_eq!(problem(voters), "it ends too early");
        let no_voters = b"\x01\0\0\0\x01\0\0\0\0\0\0\0\0";
        let unusable = "a configuration has no voters, or a voter has no store";
        assert_eq!(problem(no_voters), unusable);
        let no_store = b"\x01\0\0\0\x01\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0";
        assert_eq!(problem(no_store), unusable);
        let twice = b"\x01\0\0\0\x01\0\0\0\x02\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0";
        assert_eq!(problem(twice), "its peers are not in ascending order");
    }

    pub(crate) fn membership() -> impl Strategy<Value = Membership> {
        let voters = btree_set(0..20_u64, 1..5);
        let peers = btree_map(0..20_u64, any::<u64>(), 0..3);
        (vec(voters, 0..3), peers).prop_map(|(configurations, peers)| {
            let node = |(id, store_id)| (id, StoreNode { store_id });
            let mut nodes: BTreeMap<_, _> = peers.into_iter().map(node).collect();
            for peer_id in configurations.iter().flatten() {
                nodes.entry(*peer_id).or_default();
            }
            Membership::new(configurations, nodes).unwrap()
        })
    }

    proptest! {
        #[test]
        fn decodes_what_was_encoded(membership in membership()) {
            prop_assert_eq!(decode(&encoded(&membership)), Ok(membership));
        }

        #[test]
        fn any_bytes_are_refused_or_read_but_never_panic(bytes: Vec<u8>) {
            let _ = decode(&bytes);
            let _ = decode(&[&[FORMAT][..], &bytes].concat());
        }

        #[test]
        fn a_changed_byte_is_refused_or_encodes_to_the_same_again(
            membership in membership(), at: prop::sample::Index, to: u8,
        ) {
            let mut bytes = encoded(&membership);
            let at = at.index(bytes.len());
            bytes[at] = to;
            if let Ok(read) = decode(&bytes) {
                prop_assert_eq!(encoded(&read), bytes);
            }
        }
    }
}
