//! A membership with the entry that it came with: `[log id][membership]`, as the modules of these names say.

use super::{DecodeError, log_id, membership};
use crate::types::{LogId, Membership, StoredMembership};

/// The encoding that the module documents.
pub fn encode(log_id: &LogId, membership: &Membership) -> Vec<u8> {
    let mut encoded = log_id::encode(log_id).to_vec();
    membership::encode(membership, &mut encoded);
    encoded
}

/// The membership of its encoding.
///
/// # Errors
///
/// When the bytes are not what the module documents.
pub fn decode(encoded: &[u8]) -> Result<StoredMembership, DecodeError> {
    let split = encoded.len().min(log_id::BYTES);
    let (log_id, membership) = encoded.split_at(split);
    let log_id = log_id::decode(log_id)?;
    Ok(StoredMembership::new(
        Some(log_id),
        membership::decode(membership)?,
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::membership::tests::membership;
    use super::*;

    /// The bytes are in data directories. They never change; a new format is tested beside them.
    #[test]
    fn golden_bytes() {
        let log_id = LogId::new_term_index(7, 9);
        let nodes = [(3, crate::types::StoreNode { store_id: 5 })];
        let membership =
            Membership::new(vec![[3].into()], std::collections::BTreeMap::from(nodes)).unwrap();
        let golden = b"\x01\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\x09\
            \x01\0\0\0\x01\0\0\0\x01\0\0\0\0\0\0\0\x03\
            \0\0\0\x01\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x05";
        assert_eq!(encode(&log_id, &membership), golden);
        let stored = StoredMembership::new(Some(log_id), membership);
        assert_eq!(decode(golden), Ok(stored));
    }

    proptest! {
        #[test]
        fn decodes_what_was_encoded(term: u64, index: u64, membership in membership()) {
            let log_id = LogId::new_term_index(term, index);
            let stored = StoredMembership::new(Some(log_id), membership.clone());
            prop_assert_eq!(decode(&encode(&log_id, &membership)), Ok(stored));
        }

        #[test]
        fn any_bytes_are_refused_or_read_but_never_panic(bytes: Vec<u8>) {
            let _ = decode(&bytes);
        }
    }
}
