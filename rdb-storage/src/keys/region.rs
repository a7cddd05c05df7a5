//! Column family `raft_state`: `[0x02][u64 region id]` → a region descriptor:
//!
//! ```text
//! [u8 format = 1][u64 conf_version][u64 version]
//! [u32 length][start key] [u32 length][end key]
//! [u32 count] count × ([u64 peer id][u64 store id])
//! ```

use bytes::{Buf, BufMut, Bytes, TryGetError};

use super::DecodeError;
use crate::region::{PeerDescriptor, RegionDescriptor};

const TAG: u8 = 0x02;
const FORMAT: u8 = 1;

/// The key of a region's descriptor.
pub fn key(region_id: u64) -> [u8; 9] {
    let mut key = [TAG; 9];
    key[1..].copy_from_slice(&region_id.to_be_bytes());
    key
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
    for bound in [&region.start_key, &region.end_key] {
        record.put_u32(bound.len() as u32);
        record.put_slice(bound);
    }
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
    let error = |problem| DecodeError {
        what: "region descriptor",
        bytes: record.len(),
        problem,
    };
    let id = match key.split_first() {
        Some((&TAG, id)) => id.try_into().map(u64::from_be_bytes),
        _ => return Err(error("its key has another tag")),
    };
    let id = id.map_err(|_| error("its key should have 9 bytes"))?;
    let mut rest = record;
    if rest.try_get_u8() != Ok(FORMAT) {
        return Err(error("its format is unknown"));
    }
    let region = decode_fields(id, &mut rest).map_err(|_| error("it ends too early"))?;
    match rest {
        [] => Ok(region),
        _ => Err(error("bytes are left over")),
    }
}

fn decode_fields(id: u64, rest: &mut &[u8]) -> Result<RegionDescriptor, TryGetError> {
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
        peers: peers.collect::<Result<_, _>>()?,
    })
}

fn decode_bytes(rest: &mut &[u8]) -> Result<Bytes, TryGetError> {
    let requested = rest.try_get_u32()? as usize;
    let available = rest.len();
    let (bytes, after) = rest.split_at_checked(requested).ok_or(TryGetError {
        requested,
        available,
    })?;
    *rest = after;
    Ok(Bytes::copy_from_slice(bytes))
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
