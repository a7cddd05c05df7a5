//! The five bytes before each message of a gRPC body: a flag, and the length as a big-endian `u32`.

use bytes::Buf;

pub(crate) const HEADER_BYTES: usize = 5;

/// A header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MessageHeader {
    pub(crate) is_compressed: bool,
    pub(crate) message_bytes: usize,
}

impl From<[u8; HEADER_BYTES]> for MessageHeader {
    fn from([flag, length @ ..]: [u8; HEADER_BYTES]) -> Self {
        Self {
            is_compressed: flag != 0,
            message_bytes: u32::from_be_bytes(length) as usize,
        }
    }
}

/// The next header, as far as it has arrived.
#[derive(Debug, Default)]
pub(crate) struct ArrivingHeader {
    bytes: [u8; HEADER_BYTES],
    arrived: usize,
}

impl ArrivingHeader {
    /// Takes what is missing from the front of `data`. Returns the header when it is complete.
    pub(crate) fn advance(&mut self, data: &mut impl Buf) -> Option<MessageHeader> {
        let missing = &mut self.bytes[self.arrived..];
        let arrived = missing.len().min(data.remaining());
        data.copy_to_slice(&mut missing[..arrived]);
        self.arrived += arrived;
        if self.arrived < HEADER_BYTES {
            return None;
        }
        self.arrived = 0;
        Some(self.bytes.into())
    }

    /// Whether a part of the header has arrived.
    pub(crate) fn has_begun(&self) -> bool {
        self.arrived > 0
    }
}
