//! The keys of a device. All integers are big-endian, so that byte order is numeric order.
//!
//! | key | value |
//! | --- | --- |
//! | `[0x01][u64 group id][u64 index]` | an entry, see [`crate::encoding::entry`] |
//! | `[0x02][u64 group id]` | the vote, see [`crate::encoding::vote`] |
//! | `[0x03][u64 group id]` | the last entry that was purged, see [`crate::encoding::log_id`] |
//! | `[0x04][u64 group id]` | the peer whose log it is, see [`crate::encoding::peer`] |

use crate::encoding::DecodeError;

const ENTRY: u8 = 0x01;
const VOTE: u8 = 0x02;
const PURGED: u8 = 0x03;
const PEER: u8 = 0x04;

/// The key of an entry.
pub(super) fn entry(group_id: u64, index: u64) -> [u8; 17] {
    let mut key = [ENTRY; 17];
    key[1..9].copy_from_slice(&group_id.to_be_bytes());
    key[9..].copy_from_slice(&index.to_be_bytes());
    key
}

/// The first key behind all entries of a group.
pub(super) fn entries_end(group_id: u64) -> [u8; 18] {
    let mut key = [0; 18];
    key[..17].copy_from_slice(&entry(group_id, u64::MAX));
    key
}

/// The index in the key of an entry.
pub(super) fn index(key: &[u8]) -> Result<u64, DecodeError> {
    let index = key.get(9..).and_then(|index| index.try_into().ok());
    index.map(u64::from_be_bytes).ok_or(DecodeError {
        what: "key of a log entry",
        bytes: key.len(),
        problem: "it should have 17 bytes",
    })
}

/// The key of a group's vote.
pub(super) fn vote(group_id: u64) -> [u8; 9] {
    of_group(VOTE, group_id)
}

/// The key of a group's last purged log id.
pub(super) fn purged(group_id: u64) -> [u8; 9] {
    of_group(PURGED, group_id)
}

/// The key of the peer whose log it is.
pub(super) fn peer(group_id: u64) -> [u8; 9] {
    of_group(PEER, group_id)
}

/// The first key of the records beside the entries of logs, and the first key behind those records. A log has entries only if it has a
/// vote.
pub(super) fn beside_entries() -> ([u8; 1], [u8; 1]) {
    ([VOTE], [PEER + 1])
}

/// The group of such a key, and whether it is that of the peer.
pub(super) fn group(key: &[u8]) -> Result<(u64, bool), DecodeError> {
    let group = key
        .split_first()
        .and_then(|(tag, group)| Some((group.try_into().ok()?, *tag == PEER)));
    let (group, is_peer) = group.ok_or(DecodeError {
        what: "key of a log",
        bytes: key.len(),
        problem: "it should have 9 bytes",
    })?;
    Ok((u64::from_be_bytes(group), is_peer))
}

fn of_group(tag: u8, group_id: u64) -> [u8; 9] {
    let mut key = [tag; 9];
    key[1..].copy_from_slice(&group_id.to_be_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let key = [1, 0, 0, 0, 0, 0, 0, 2, 3, 0, 0, 0, 0, 0, 0, 4, 5];
        assert_eq!(entry(0x0203, 0x0405), key);
        assert_eq!(vote(0x0203), [2, 0, 0, 0, 0, 0, 0, 2, 3]);
        assert_eq!(purged(0x0203), [3, 0, 0, 0, 0, 0, 0, 2, 3]);
        assert_eq!(peer(0x0203), [4, 0, 0, 0, 0, 0, 0, 2, 3]);
    }

    #[test]
    fn the_group_of_what_is_beside_the_entries_is_known() {
        let (start, end) = beside_entries();
        for (key, is_peer) in [(vote(7), false), (purged(7), false), (peer(7), true)] {
            assert!(start[..] < key[..] && key[..] < end[..]);
            assert_eq!(group(&key), Ok((7, is_peer)));
        }
        assert!(start[..] > entry(u64::MAX, u64::MAX)[..]);
        assert!(group(b"").is_err());
        assert!(group(&start).is_err());
    }

    #[test]
    fn entries_of_a_group_are_together_and_in_order() {
        let (last, end) = (entry(7, u64::MAX), entries_end(7));
        assert!(entry(7, 255) < entry(7, 256));
        assert!(last[..] < end[..]);
        assert!(end[..] < entry(8, 0)[..]);
        assert_eq!(index(&last), Ok(u64::MAX));
        assert!(index(&end).is_err());
        assert!(index(b"").is_err());
    }
}
