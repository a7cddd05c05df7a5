//! Copies small parts out of large messages.

use bytes::Bytes;

/// Copies `part` out of its message if it is less than half of it. Everything that was decoded from a message shares its
/// buffer, and an application that keeps one value should not keep a whole message alive.
pub(crate) fn detach(part: &mut Bytes, message_bytes: usize) {
    if part.len() < message_bytes / 2 {
        *part = Bytes::copy_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_part_is_copied_and_a_large_one_shares_its_message() {
        let message = Bytes::from(vec![0; 100]);
        for (bytes, is_shared) in [(49, false), (50, true), (100, true)] {
            let part = message.slice(..bytes);
            let mut kept = part.clone();
            detach(&mut kept, message.len());
            assert_eq!(kept, part);
            assert_eq!(kept.as_ptr() == part.as_ptr(), is_shared, "{bytes}");
        }
    }
}
