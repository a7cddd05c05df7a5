//! Column family `raft_state`: `[0x05][u64 region id]` → the mark of a snapshot that is being installed:
//!
//! ```text
//! [u8 format = 1]
//! [u32 length][name of the folder that has the files]
//! [u32 files of the raw keyspace][u32 files of the versioned keyspace]
//! [u64 region id]
//! [u32 length][region descriptor] [u32 length][applied position] [u32 length][membership]
//! [u64 version floor]
//! ```
//!
//! While it is there, the region has no other record, and no keys but those of the files. An open finishes the install.

use bytes::{Buf, BufMut, Bytes};

use super::DecodeError;
use super::fields::{Problem, decode_all, decode_bytes, encode_bytes};
use crate::snapshot::{Installing, RegionState};

const TAG: u8 = 0x05;
const FORMAT: u8 = 1;

/// The key of a region's mark.
pub fn key(region_id: u64) -> [u8; 9] {
    super::of_region(TAG, region_id)
}

/// First key of all marks, and first key behind them.
pub fn range() -> ([u8; 1], [u8; 1]) {
    ([TAG], [TAG + 1])
}

pub(crate) fn encode(installing: &Installing) -> Vec<u8> {
    let mut record = vec![FORMAT];
    encode_bytes(installing.folder.as_bytes(), &mut record);
    for files in installing.files {
        record.put_u32(files);
    }
    installing.state.encode(&mut record);
    record
}

pub(crate) fn decode(record: &[u8]) -> Result<Installing, DecodeError> {
    let record = Bytes::copy_from_slice(record);
    decode_all("mark of an install", FORMAT, record, |rest| {
        let folder = decode_bytes(rest)?.to_vec();
        let folder = String::from_utf8(folder).map_err(|_| Problem("its folder is no text"))?;
        let files = [rest.try_get_u32()?, rest.try_get_u32()?];
        Ok(Installing {
            folder,
            files,
            state: RegionState::decode(rest)?,
        })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::applied::AppliedState;
    use crate::region::RegionDescriptor;

    #[test]
    fn golden_bytes() {
        let installing = Installing {
            folder: "7-1".to_owned(),
            files: [2, 3],
            state: RegionState {
                region: RegionDescriptor {
                    id: 7,
                    start_key: Bytes::new(),
                    end_key: Bytes::new(),
                    conf_version: 1,
                    version: 2,
                    peers: Vec::new(),
                },
                applied: AppliedState {
                    position: Bytes::from_static(b"p"),
                    membership: Bytes::from_static(b"m"),
                },
                version_floor: 9,
            },
        };
        let descriptor = super::super::region::encode(&installing.state.region);
        let expected = [
            b"\x01\0\0\0\x037-1\0\0\0\x02\0\0\0\x03\0\0\0\0\0\0\0\x07",
            &[0, 0, 0, descriptor.len() as u8][..],
            &descriptor,
            b"\0\0\0\x01p\0\0\0\x01m\0\0\0\0\0\0\0\x09",
        ];
        assert_eq!(key(7), [5, 0, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(encode(&installing), expected.concat());
        assert_eq!(decode(&encode(&installing)), Ok(installing));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_read_but_never_panic(record: Vec<u8>) {
            let _ = decode(&record);
            let _ = decode(&[&[FORMAT][..], &record].concat());
        }
    }
}
