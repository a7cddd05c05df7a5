//! Changes that a device makes atomically.

/// Changes of a device, in order. Their keys and values are in one buffer.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    buffer: Vec<u8>,
    changes: Vec<Parts>,
}

/// One change of a [`Batch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change<'a> {
    /// Sets the value of a key.
    Put {
        /// The key.
        key: &'a [u8],
        /// Its value from now on.
        value: &'a [u8],
    },
    /// Removes a key.
    Delete {
        /// The key. It may be unknown.
        key: &'a [u8],
    },
    /// Removes all keys of a range.
    DeleteRange {
        /// The first key.
        start: &'a [u8],
        /// The first key behind the range.
        end: &'a [u8],
    },
}

/// A change is in the buffer as its key or start up to `middle`, and its value or end up to `end`.
#[derive(Debug, Clone, Copy)]
struct Parts {
    kind: Kind,
    middle: usize,
    end: usize,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Put,
    Delete,
    DeleteRange,
}

impl Batch {
    /// Sets the value of a key to what `write` appends.
    pub(super) fn put(&mut self, key: &[u8], write: impl FnOnce(&mut Vec<u8>)) {
        self.push(Kind::Put, key, write);
    }

    pub(super) fn delete(&mut self, key: &[u8]) {
        self.push(Kind::Delete, key, |_| {});
    }

    pub(super) fn delete_range(&mut self, start: &[u8], end: &[u8]) {
        let end = |buffer: &mut Vec<u8>| buffer.extend_from_slice(end);
        self.push(Kind::DeleteRange, start, end);
    }

    fn push(&mut self, kind: Kind, first: &[u8], second: impl FnOnce(&mut Vec<u8>)) {
        self.buffer.extend_from_slice(first);
        let middle = self.buffer.len();
        second(&mut self.buffer);
        let end = self.buffer.len();
        self.changes.push(Parts { kind, middle, end });
    }

    /// The changes, in order.
    pub fn changes(&self) -> impl Iterator<Item = Change<'_>> {
        let starts = self.changes.iter().map(|parts| parts.end);
        let starts = std::iter::once(0).chain(starts);
        starts.zip(&self.changes).map(|(start, parts)| {
            let first = &self.buffer[start..parts.middle];
            let second = &self.buffer[parts.middle..parts.end];
            match parts.kind {
                Kind::Put => Change::Put {
                    key: first,
                    value: second,
                },
                Kind::Delete => Change::Delete { key: first },
                Kind::DeleteRange => Change::DeleteRange {
                    start: first,
                    end: second,
                },
            }
        })
    }

    /// Forgets the changes and keeps the memory for the next ones.
    pub(super) fn clear(&mut self) {
        self.buffer.clear();
        self.changes.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_come_back_in_order_with_their_parts() {
        let mut batch = Batch::default();
        batch.put(b"k1", |value| value.extend_from_slice(b"v1"));
        batch.delete(b"k2");
        batch.delete_range(b"a", b"bcd");
        batch.put(b"k3", |_| {});
        let changes = [
            Change::Put {
                key: b"k1",
                value: b"v1",
            },
            Change::Delete { key: b"k2" },
            Change::DeleteRange {
                start: b"a",
                end: b"bcd",
            },
            Change::Put {
                key: b"k3",
                value: b"",
            },
        ];
        assert_eq!(batch.changes().collect::<Vec<_>>(), changes);
        batch.clear();
        assert_eq!(batch.changes().count(), 0);
    }
}
