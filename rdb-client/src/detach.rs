//! Copies small parts out of large messages.

use bytes::Bytes;

/// Most bytes of parts that are copied together. An application that keeps one of them keeps the others alive.
const TOGETHER_BYTES_MAX: usize = 1024;

/// Copies `part` out of its message if it is less than half of it. Everything that was decoded from a message shares its
/// buffer, and an application that keeps one value should not keep a whole message alive.
pub(crate) fn detach(part: &mut Bytes, message_bytes: usize) {
    if part.len() < message_bytes / 2 {
        *part = Bytes::copy_from_slice(part);
    }
}

/// Copies the parts of a message that are less than half of it. Small neighbours share a copy of at most
/// [`TOGETHER_BYTES_MAX`]: an allocation for each would cost more than all other work for a page.
pub(crate) fn detach_all<'a>(parts: impl Iterator<Item = &'a mut Bytes>) {
    let mut parts: Vec<_> = parts.collect();
    let message_bytes: usize = parts.iter().map(|part| part.len()).sum();
    parts.retain(|part| part.len() < message_bytes / 2);
    let mut before_bytes = 0;
    let neighbours = parts.chunk_by_mut(|before, part| {
        before_bytes += before.len();
        let fits = before_bytes + part.len() <= TOGETHER_BYTES_MAX;
        if !fits {
            before_bytes = 0;
        }
        fits
    });
    for together in neighbours {
        let mut copies = Vec::with_capacity(together.iter().map(|part| part.len()).sum());
        for part in &*together {
            copies.extend_from_slice(part);
        }
        let mut copies = Bytes::from(copies);
        for part in together {
            **part = copies.split_to(part.len());
        }
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

    /// Which parts share a copy, by their sizes.
    fn neighbours(sizes: &[usize]) -> Vec<Vec<usize>> {
        let message: Bytes = (0..sizes.iter().sum()).map(|index| index as u8).collect();
        let mut rest = message.clone();
        let mut kept: Vec<_> = sizes.iter().map(|size| rest.split_to(*size)).collect();
        detach_all(kept.iter_mut());
        assert_eq!(kept.concat(), message);
        let is_next = |before: &Bytes, part: &Bytes| {
            let is_copied = !message.as_ptr_range().contains(&part.as_ptr());
            is_copied && before.as_ptr_range().end == part.as_ptr()
        };
        let groups = kept.chunk_by(is_next);
        let sizes = |group: &[Bytes]| group.iter().map(Bytes::len).collect();
        groups.map(sizes).collect()
    }

    #[test]
    fn small_neighbours_are_copied_together_and_keep_nothing_large_alive() {
        let half = TOGETHER_BYTES_MAX / 2;
        let (whole, more) = (2 * half, 2 * half + 1);
        assert_eq!(
            neighbours(&[half, half, 1, whole, more, 1, 0, 1]),
            [
                vec![half, half],
                vec![1],
                vec![whole],
                vec![more],
                vec![1, 0, 1]
            ]
        );
        assert_eq!(neighbours(&[3, 900, 3]), [vec![3], vec![900], vec![3]]);
        assert_eq!(neighbours(&[]), Vec::<Vec<usize>>::new());
    }
}
