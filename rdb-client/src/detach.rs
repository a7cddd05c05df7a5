//! Parts of a message, and the memory that they keep.

use bytes::Bytes;

/// Copies `part` out of a message if it is a small part of it. Everything that was decoded from a message shares its buffer:
/// an application that keeps one value should not keep a message full of them.
pub(crate) fn detached(part: Bytes, message_bytes: usize) -> Bytes {
    if part.len() < message_bytes / 2 {
        Bytes::copy_from_slice(&part)
    } else {
        part
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_part_is_copied_and_a_large_one_shares_its_message() {
        let message = Bytes::from(vec![0; 100]);
        for (bytes, shared) in [(49, false), (50, true), (100, true)] {
            let part = message.slice(..bytes);
            let kept = detached(part.clone(), message.len());
            assert_eq!(kept, part);
            assert_eq!(kept.as_ptr() == part.as_ptr(), shared, "{bytes}");
        }
    }
}
