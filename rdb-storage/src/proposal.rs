//! The payload of a log entry: commands, with the epoch that they were proposed under; or a check, which is decoded by
//! [`LogChange::decode`](crate::LogChange::decode).
//!
//! ```text
//! check     [u8 format = 2]
//!
//! proposal  [u8 format = 1][u64 epoch version][u32 count] count × command
//!
//! command   [u8 1][bytes key][bytes value]                  put raw
//!           [u8 2][bytes key]                               delete raw
//!           [u8 3][u32 count] count × ([bytes key][bytes value])   put a batch of raw values
//!           [u8 4][bytes start key][bytes end key]          delete a range of raw keys
//!           [u8 5][bytes key][u64 expected version][bytes value]   compare and swap
//!           [u8 6][bytes key][u64 expected version]         compare and delete
//!           [u8 7][u64 region id][bytes record]             put a region; the record is that of `keys::region`
//!
//! bytes     [u32 length][length × u8]
//! ```
//!
//! Integers are big-endian. A release reads every older format and refuses a newer one. The bytes of a format never change,
//! and neither does the meaning of its commands, limits included: replicas that run different releases have to hold the
//! same data.

use bytes::{Buf, BufMut, Bytes};

use crate::command::Command;
use crate::keys::fields::{Problem, decode_all, decode_bytes, encode_bytes};
use crate::keys::{self, DecodeError};

/// The format of the proposals that this release writes.
const FORMAT: u8 = 1;

/// The format of a check.
pub(crate) const CHECK_FORMAT: u8 = 2;

/// Shortest encoding of a command, and of an entry of a batch.
const COMMAND_BYTES_MIN: usize = 5;
const BATCH_ENTRY_BYTES_MIN: usize = 8;

/// Commands for one region, and the epoch that they were proposed under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// The `version` of the region's epoch.
    pub epoch_version: u64,
    /// Applied in order.
    pub commands: Vec<Command>,
}

impl Proposal {
    /// The encoding that the module documents.
    pub fn encode(&self) -> Bytes {
        Self::encode_commands(self.epoch_version, self.commands.iter())
    }

    /// The encoding of a proposal of these commands.
    pub fn encode_commands<'a>(
        epoch_version: u64,
        commands: impl Iterator<Item = &'a Command> + Clone,
    ) -> Bytes {
        let (count, payload_bytes) = commands.clone().fold((0, 0), |(count, bytes), command| {
            (count + 1, bytes + command.payload_bytes())
        });
        let mut bytes = Vec::with_capacity(payload_bytes + 32 * (count + 1));
        bytes.put_u8(FORMAT);
        bytes.put_u64(epoch_version);
        bytes.put_u32(count as u32);
        for command in commands {
            encode_command(command, &mut bytes);
        }
        bytes.into()
    }

    /// Decodes a proposal. Its keys and values share the buffer of `encoded`.
    ///
    /// # Errors
    ///
    /// When the format or the kind of a command is unknown, or the bytes are not what the module documents. Limits are
    /// checked when the proposal is applied.
    pub fn decode(encoded: Bytes) -> Result<Self, DecodeError> {
        decode_all("proposal", FORMAT, encoded, Self::decode_fields)
    }

    fn decode_fields(rest: &mut Bytes) -> Result<Self, Problem> {
        let epoch_version = rest.try_get_u64()?;
        let count = decode_count(rest, COMMAND_BYTES_MIN)?;
        let commands = (0..count).map(|_| decode_command(rest));
        Ok(Self {
            epoch_version,
            commands: commands.collect::<Result<_, _>>()?,
        })
    }
}

fn encode_command(command: &Command, bytes: &mut Vec<u8>) {
    match command {
        Command::PutRaw { key, value } => {
            bytes.put_u8(1);
            encode_bytes(key, bytes);
            encode_bytes(value, bytes);
        }
        Command::DeleteRaw { key } => {
            bytes.put_u8(2);
            encode_bytes(key, bytes);
        }
        Command::PutBatchRaw { entries } => {
            bytes.put_u8(3);
            bytes.put_u32(entries.len() as u32);
            for (key, value) in entries {
                encode_bytes(key, bytes);
                encode_bytes(value, bytes);
            }
        }
        Command::DeleteRangeRaw { start_key, end_key } => {
            bytes.put_u8(4);
            encode_bytes(start_key, bytes);
            encode_bytes(end_key, bytes);
        }
        Command::CompareAndSwap {
            key,
            expected_version,
            value,
        } => {
            bytes.put_u8(5);
            encode_bytes(key, bytes);
            bytes.put_u64(*expected_version);
            encode_bytes(value, bytes);
        }
        Command::CompareAndDelete {
            key,
            expected_version,
        } => {
            bytes.put_u8(6);
            encode_bytes(key, bytes);
            bytes.put_u64(*expected_version);
        }
        Command::PutRegion(region) => {
            bytes.put_u8(7);
            bytes.put_u64(region.id);
            encode_bytes(&keys::region::encode(region), bytes);
        }
    }
}

fn decode_command(rest: &mut Bytes) -> Result<Command, Problem> {
    Ok(match rest.try_get_u8()? {
        1 => Command::PutRaw {
            key: decode_bytes(rest)?,
            value: decode_bytes(rest)?,
        },
        2 => Command::DeleteRaw {
            key: decode_bytes(rest)?,
        },
        3 => {
            let count = decode_count(rest, BATCH_ENTRY_BYTES_MIN)?;
            let entries = (0..count).map(|_| Ok((decode_bytes(rest)?, decode_bytes(rest)?)));
            Command::PutBatchRaw {
                entries: entries.collect::<Result<_, Problem>>()?,
            }
        }
        4 => Command::DeleteRangeRaw {
            start_key: decode_bytes(rest)?,
            end_key: decode_bytes(rest)?,
        },
        5 => Command::CompareAndSwap {
            key: decode_bytes(rest)?,
            expected_version: rest.try_get_u64()?,
            value: decode_bytes(rest)?,
        },
        6 => Command::CompareAndDelete {
            key: decode_bytes(rest)?,
            expected_version: rest.try_get_u64()?,
        },
        7 => {
            let key = keys::region::key(rest.try_get_u64()?);
            let region = keys::region::decode(&key, &decode_bytes(rest)?);
            Command::PutRegion(region.map_err(|error| Problem(error.problem))?)
        }
        _ => return Err(Problem("a command in it has an unknown kind")),
    })
}

/// A count of items of at least `bytes_min` bytes each. A count that the rest of the bytes cannot hold is refused.
fn decode_count(rest: &mut Bytes, bytes_min: usize) -> Result<u32, Problem> {
    let count = rest.try_get_u32()?;
    match (count as usize).checked_mul(bytes_min) {
        Some(bytes) if bytes <= rest.len() => Ok(count),
        _ => Err(Problem("it ends too early")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::LogChange;
    use crate::region::{PeerDescriptor, RegionDescriptor};

    fn every_kind() -> Proposal {
        let key = Bytes::from_static(b"k");
        let value = Bytes::from_static(b"val");
        Proposal {
            epoch_version: 2,
            commands: vec![
                Command::PutRaw {
                    key: key.clone(),
                    value: value.clone(),
                },
                Command::DeleteRaw { key: key.clone() },
                Command::PutBatchRaw {
                    entries: vec![(key.clone(), value.clone()), (key.clone(), Bytes::new())],
                },
                Command::DeleteRangeRaw {
                    start_key: key.clone(),
                    end_key: Bytes::new(),
                },
                Command::CompareAndSwap {
                    key: key.clone(),
                    expected_version: 0x0102,
                    value,
                },
                Command::CompareAndDelete {
                    key: key.clone(),
                    expected_version: 3,
                },
                Command::PutRegion(RegionDescriptor {
                    id: 7,
                    start_key: key,
                    end_key: Bytes::new(),
                    conf_version: 1,
                    version: 2,
                    peers: vec![PeerDescriptor { id: 3, store_id: 4 }],
                }),
            ],
        }
    }

    /// These bytes are in logs. They never change; a new format is tested beside them.
    const FORMAT_1: &[u8] = b"\x01\0\0\0\0\0\0\0\x02\0\0\0\x07\
        \x01\0\0\0\x01k\0\0\0\x03val\
        \x02\0\0\0\x01k\
        \x03\0\0\0\x02\0\0\0\x01k\0\0\0\x03val\0\0\0\x01k\0\0\0\0\
        \x04\0\0\0\x01k\0\0\0\0\
        \x05\0\0\0\x01k\0\0\0\0\0\0\x01\x02\0\0\0\x03val\
        \x06\0\0\0\x01k\0\0\0\0\0\0\0\x03\
        \x07\0\0\0\0\0\0\0\x07\0\0\0\x2e\
        \x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\x01k\0\0\0\0\
        \0\0\0\x01\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x04";

    #[test]
    fn golden_bytes_of_format_1() {
        assert_eq!(every_kind().encode(), FORMAT_1);
        let decoded = Proposal::decode(Bytes::from_static(FORMAT_1));
        assert_eq!(decoded, Ok(every_kind()));
    }

    #[test]
    fn golden_bytes_of_a_check_which_is_no_proposal_to_a_release_without_checks() {
        assert_eq!(LogChange::CHECK, b"\x02");
        let decode = |bytes: &'static [u8]| LogChange::decode(Bytes::from_static(bytes));
        assert_eq!(decode(b"\x02"), Ok(LogChange::Check));
        assert_eq!(decode(FORMAT_1), Ok(LogChange::Proposal(every_kind())));
        for unknown in [&b"\x02\0"[..], b"\x03", b""] {
            decode(unknown).unwrap_err();
        }
        let refused = Proposal::decode(Bytes::from_static(b"\x02")).unwrap_err();
        assert_eq!(refused.problem, "its format is unknown");
    }

    #[test]
    fn unknown_formats_and_kinds_and_wrong_lengths_are_refused() {
        let problem = |bytes: &[u8]| {
            let decoded = Proposal::decode(Bytes::copy_from_slice(bytes));
            decoded.map_err(|error| error.problem).unwrap_err()
        };
        assert_eq!(problem(b""), "its format is unknown");
        assert_eq!(
            problem(&[&[2], &FORMAT_1[1..]].concat()),
            "its format is unknown"
        );
        assert_eq!(problem(&[FORMAT_1, b"\0"].concat()), "bytes are left over");
        for length in 1..FORMAT_1.len() {
            assert_eq!(
                problem(&FORMAT_1[..length]),
                "it ends too early",
                "{length}"
            );
        }
        let mut unknown = FORMAT_1.to_vec();
        unknown[13] = 8;
        assert_eq!(problem(&unknown), "a command in it has an unknown kind");
        let many = b"\x01\0\0\0\0\0\0\0\0\xff\xff\xff\xff\x03\xff\xff\xff\xff";
        assert_eq!(
            problem(many),
            "it ends too early",
            "and nothing is allocated"
        );
    }

    fn bytes() -> impl Strategy<Value = Bytes> {
        vec(any::<u8>(), 0..9).prop_map(Bytes::from)
    }

    fn command() -> impl Strategy<Value = Command> {
        prop_oneof![
            (bytes(), bytes()).prop_map(|(key, value)| Command::PutRaw { key, value }),
            bytes().prop_map(|key| Command::DeleteRaw { key }),
            vec((bytes(), bytes()), 0..4).prop_map(|entries| Command::PutBatchRaw { entries }),
            (bytes(), bytes())
                .prop_map(|(start_key, end_key)| Command::DeleteRangeRaw { start_key, end_key }),
            (bytes(), any::<u64>(), bytes()).prop_map(|(key, expected_version, value)| {
                Command::CompareAndSwap {
                    key,
                    expected_version,
                    value,
                }
            }),
            (bytes(), any::<u64>()).prop_map(|(key, expected_version)| {
                Command::CompareAndDelete {
                    key,
                    expected_version,
                }
            }),
            (
                any::<[u64; 3]>(),
                bytes(),
                bytes(),
                vec(any::<(u64, u64)>(), 0..3)
            )
                .prop_map(
                    |([id, conf_version, version], start_key, end_key, peers)| {
                        let peers = peers.into_iter();
                        let peers = peers.map(|(id, store_id)| PeerDescriptor { id, store_id });
                        Command::PutRegion(RegionDescriptor {
                            id,
                            start_key,
                            end_key,
                            conf_version,
                            version,
                            peers: peers.collect(),
                        })
                    }
                ),
        ]
    }

    proptest! {
        #[test]
        fn decodes_what_was_encoded(epoch_version: u64, commands in vec(command(), 0..6)) {
            let proposal = Proposal { epoch_version, commands };
            prop_assert_eq!(Proposal::decode(proposal.encode()), Ok(proposal));
        }

        #[test]
        fn any_bytes_are_refused_or_read_but_never_panic(bytes: Vec<u8>) {
            let _ = Proposal::decode(bytes.clone().into());
            let header = [FORMAT, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1];
            let _ = Proposal::decode([&header[..], &bytes].concat().into());
        }

        #[test]
        fn a_changed_byte_is_refused_or_read_but_never_panics(
            commands in vec(command(), 1..6), at: prop::sample::Index, to: u8,
        ) {
            let mut bytes = Proposal { epoch_version: 1, commands }.encode().to_vec();
            let at = at.index(bytes.len());
            bytes[at] = to;
            let read = Proposal::decode(bytes.clone().into());
            if let Ok(read) = read {
                prop_assert_eq!(read.encode(), bytes);
            }
        }
    }
}
