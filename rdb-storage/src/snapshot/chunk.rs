//! One message of a snapshot: `[u8 format = 1][u8 kind][content][u32 CRC-32C of all before]`.
//!
//! | kind | content |
//! | --- | --- |
//! | 1, the first | the region's records |
//! | 2 | raw keys and their values, in order: any number of `[u32 length][key][u32 length][value]` |
//! | 3, after those | versioned keys and their records, the same |
//! | 4, the last | `[u64 raw keys][u64 versioned keys]` |

use bytes::{Buf, BufMut, Bytes};
use crc32c::crc32c;

use super::RegionState;
use crate::keys::DecodeError;
use crate::keys::fields::{Problem, decode_all, decode_bytes, encode_bytes};
use crate::read::Keyspace;

const FORMAT: u8 = 1;

const CHECKSUM_BYTES: usize = size_of::<u32>();

/// Bytes at which a chunk takes no more entries.
const CHUNK_BYTES: usize = 1 << 20;

/// A chunk that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Chunk {
    State(RegionState),
    Entries(Keyspace, Vec<(Bytes, Bytes)>),
    /// How many keys there were of each keyspace.
    End(Counts),
}

/// Keys of the raw keyspace, and of the versioned one.
pub(super) type Counts = [u64; 2];

pub(super) fn state(state: &RegionState) -> Bytes {
    let mut bytes = vec![FORMAT, 1];
    state.encode(&mut bytes);
    sealed(bytes)
}

pub(super) fn end(counts: Counts) -> Bytes {
    let mut bytes = vec![FORMAT, 4];
    for count in counts {
        bytes.put_u64(count);
    }
    sealed(bytes)
}

/// A chunk of entries in the making.
pub(super) struct Entries(Vec<u8>);

impl Entries {
    pub(super) fn new(keyspace: Keyspace) -> Self {
        Self(vec![FORMAT, kind(keyspace)])
    }

    pub(super) fn push(&mut self, key: &[u8], value: &[u8]) {
        encode_bytes(key, &mut self.0);
        encode_bytes(value, &mut self.0);
    }

    pub(super) fn is_full(&self) -> bool {
        self.0.len() >= CHUNK_BYTES
    }

    /// The chunk, if it has an entry.
    pub(super) fn finish(self) -> Option<Bytes> {
        (self.0.len() > 2).then(|| sealed(self.0))
    }
}

fn kind(keyspace: Keyspace) -> u8 {
    match keyspace {
        Keyspace::Raw => 2,
        Keyspace::Versioned => 3,
    }
}

fn sealed(mut bytes: Vec<u8>) -> Bytes {
    let checksum = crc32c(&bytes);
    bytes.put_u32(checksum);
    bytes.into()
}

/// Reads a chunk, without a copy.
pub(super) fn read(mut chunk: Bytes) -> Result<Chunk, DecodeError> {
    const WHAT: &str = "chunk of a snapshot";
    let bytes = chunk.len();
    let damaged = |problem| DecodeError {
        what: WHAT,
        bytes,
        problem,
    };
    let end = bytes.checked_sub(CHECKSUM_BYTES);
    let end = end.ok_or_else(|| damaged("it ends too early"))?;
    let checksum = chunk.split_off(end).get_u32();
    if checksum != crc32c(&chunk) {
        return Err(damaged("its checksum is another one"));
    }
    decode_all(WHAT, FORMAT, chunk, |rest| match rest.try_get_u8()? {
        1 => RegionState::decode(rest).map(Chunk::State),
        2 => Ok(Chunk::Entries(Keyspace::Raw, entries(rest)?)),
        3 => Ok(Chunk::Entries(Keyspace::Versioned, entries(rest)?)),
        4 => Ok(Chunk::End([rest.try_get_u64()?, rest.try_get_u64()?])),
        _ => Err(Problem("its kind is unknown")),
    })
}

fn entries(rest: &mut Bytes) -> Result<Vec<(Bytes, Bytes)>, Problem> {
    let mut entries = Vec::new();
    while rest.has_remaining() {
        entries.push((decode_bytes(rest)?, decode_bytes(rest)?));
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::applied::AppliedState;
    use crate::region::{PeerDescriptor, RegionDescriptor};

    fn example() -> RegionState {
        RegionState {
            region: RegionDescriptor {
                id: 7,
                start_key: Bytes::from_static(b"a"),
                end_key: Bytes::from_static(b"b"),
                conf_version: 1,
                version: 2,
                peers: vec![PeerDescriptor { id: 3, store_id: 4 }],
            },
            applied: AppliedState {
                position: Bytes::from_static(b"p"),
                membership: Bytes::from_static(b"m"),
            },
            version_floor: 9,
        }
    }

    #[test]
    fn chunks_are_read_as_they_were_written() {
        assert_eq!(read(state(&example())), Ok(Chunk::State(example())));
        assert_eq!(read(end([3, 4])), Ok(Chunk::End([3, 4])));
        for keyspace in [Keyspace::Raw, Keyspace::Versioned] {
            assert_eq!(Entries::new(keyspace).finish(), None);
            let mut entries = Entries::new(keyspace);
            entries.push(b"k", b"v");
            entries.push(b"l", b"");
            let expected = vec![("k".into(), "v".into()), ("l".into(), Bytes::new())];
            let chunk = entries.finish().unwrap();
            assert_eq!(read(chunk), Ok(Chunk::Entries(keyspace, expected)));
        }
    }

    #[test]
    fn a_chunk_of_which_any_bit_has_changed_is_refused() {
        let chunk = state(&example());
        for bit in 0..chunk.len() * 8 {
            let mut damaged = chunk.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(read(damaged.into()).is_err(), "bit {bit}");
        }
        for length in 0..chunk.len() {
            assert!(read(chunk.slice(..length)).is_err(), "{length} bytes");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_read_but_never_panic(content: Vec<u8>, kind in 0..6_u8) {
            let _ = read(content.clone().into());
            let _ = read(sealed([&[FORMAT, kind], &content[..]].concat()));
        }
    }
}
