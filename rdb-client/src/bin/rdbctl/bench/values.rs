//! Values: random bytes, so that nothing on the way gains from compressing them.

use bytes::Bytes;
use fastrand::Rng;

use super::arguments::ValueSize;

/// How many different places a value can be cut from.
const OFFSETS: usize = 64 << 10;

/// Cuts values out of one random buffer without copying. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Values {
    buffer: Bytes,
    value_bytes: usize,
}

impl Values {
    pub(crate) fn new(size: ValueSize) -> Self {
        let value_bytes = size.value_bytes as usize;
        let mut buffer = vec![0; value_bytes + OFFSETS];
        Rng::with_seed(0).fill(&mut buffer);
        Self {
            buffer: buffer.into(),
            value_bytes,
        }
    }

    pub(crate) fn next(&self, rng: &mut Rng) -> Bytes {
        let start = rng.usize(..OFFSETS);
        self.buffer.slice(start..start + self.value_bytes)
    }
}
