//! Column family `raft_state`: `[0x02][u64 region id]` → a region descriptor:
//!
//! ```text
//! [u8 format = 1][u64 conf_version][u64 version]
//! [u32 length][start key] [u32 length][end key]
//! [u32 count] count × ([u64 peer id][u64 store id])
//! ```

use bytes::{Buf, BufMut, Bytes};

use super::DecodeError;
use super::fields::{Problem, decode_all, decode_bytes, encode_bytes};
use crate::region::{PeerDescriptor, RegionDescriptor};

const TAG: u8 = 0x02;
const FORMAT: u8 = 1;

/// The key of a region's descriptor.
pub fn key(region_id: u64) -> [u8; 9] {
    super::of_region(TAG, region_id)
}

/// First key of all descriptors, and first key behind them.
pub fn range() -> ([u8; 1], [u8; 1]) {
    ([TAG], [TAG + 1])
}

/// The record of a descriptor; its id is in the key.
pub fn encode(region: &RegionDescriptor) -> Vec<u8> {
    let mut record = Vec::new();
    record.put_u8(FORMAT);
    record.put_u64(region.conf_version);
    record.put_u64(region.version);
    encode_bytes(&region.start_key, &mut record);
    encode_bytes(&region.end_key, &mut record);
    record.put_u32(region.peers.len() as u32);
    for peer in &region.peers {
        record.put_u64(peer.id);
        record.put_u64(peer.store_id);
    }
    record
}

/// The descriptor of a key and its record.
///
/// # Errors
///
/// When either is not of the form that the module documents.
pub fn decode(key: &[u8], record: &[u8]) -> Result<RegionDescriptor, DecodeError> {
    let what = "region descriptor";
    let error = |problem| DecodeError {
        what,
        bytes: record.len(),
        problem,
    };
    let id = match key.split_first() {
        Some((&TAG, id)) => id.try_into().map(u64::from_be_bytes),
        _ => return Err(error("its key has another tag")),
    };
    let id = id.map_err(|_| error("its key should have 9 bytes"))?;
    let record = Bytes::copy_from_slice(record);
    decode_all(what, FORMAT, record, |rest| decode_fields(id, rest))
}

fn decode_fields(id: u64, rest: &mut Bytes) -> Result<RegionDescriptor, Problem> {
    let conf_version = rest.try_get_u64()?;
    let version = rest.try_get_u64()?;
    let start_key = decode_bytes(rest)?;
    let end_key = decode_bytes(rest)?;
    let count = rest.try_get_u32()?;
    let peers = (0..count).map(|_| {
        Ok(PeerDescriptor {
            id: rest.try_get_u64()?,
            store_id: rest.try_get_u64()?,
        })
    });
    Ok(RegionDescriptor {
        id,
        start_key,
        end_key,
        conf_version,
        version,
        peers: peers.collect::<Result<_, Problem>>()?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn golden_bytes() {
        let region = RegionDescriptor {
            id: 7,
            start_key: Bytes::from_static(b"a"),
            end_key: Bytes::new(),
            conf_version: 1,
            version: 2,
            peers: vec![PeerDescriptor { id: 3, store_id: 4 }],
        };
        assert_eq!(key(7), [2, 0, 0, 0, 0, 0, 0, 0, 7]);
        let expected = b"\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\x01a\0\0\0\0\
            \0\0\0\x01\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x04";
        assert_eq!(encode(&region), expected);
    }

    proptest! {
        #[test]
        fn decodes_what_was_encoded(
            id: u64, conf_version: u64, version: u64,
            start_key in vec(any::<u8>(), 0..9), end_key in vec(any::<u8>(), 0..9),
            peers in vec((any::<u64>(), any::<u64>()), 0..4),
        ) {
            let peers = peers.into_iter().map(|(id, store_id)| PeerDescriptor { id, store_id });
            let region = RegionDescriptor {
                id, conf_version, version,
                start_key: start_key.into(), end_key: end_key.into(), peers: peers.collect(),
            };
            prop_assert_eq!(decode(&key(id), &encode(&region)), Ok(region));
        }

        #[test]
        fn any_bytes_are_refused_or_read_but_never_panic(key: Vec<u8>, record: Vec<u8>) {
            let _ = decode(&key, &record);
            let with_header = [&[FORMAT][..], &record].concat();
            let _ = decode(&super::key(1), &with_header);
        }
    }
}
