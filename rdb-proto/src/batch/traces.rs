//! The trace contexts of the commands of a message.
//!
//! They are one field of bytes beside the commands. So a command without a context costs nothing, and the field cannot take more memory
//! than its message. Stores of earlier releases ignore it. It is not a list of messages, since those stores refuse a message with many
//! unknown fields.

use crate::kvrpc::BatchRequest;
use crate::trace::{self, CONTEXT_BYTES, TraceContext};

/// Bytes of the position of a command, the higher one first.
const POSITION_BYTES: usize = 2;

const ENTRY_BYTES: usize = POSITION_BYTES + CONTEXT_BYTES;

/// Writes down that the command at `position` has this context. Positions must ascend. A position beyond those that a message can
/// have is left out.
pub fn push_trace(traces: &mut Vec<u8>, position: usize, trace: &TraceContext) {
    if let Ok(position) = u16::try_from(position) {
        traces.extend_from_slice(&position.to_be_bytes());
        traces.extend_from_slice(&trace::to_bytes(trace));
    }
}

/// Finds the contexts of commands, one command after the other.
#[derive(Debug)]
pub struct Traces<'a> {
    /// What is of this command and of later ones.
    rest: &'a [u8],
}

impl<'a> Traces<'a> {
    /// Those in [`BatchRequest::traces`].
    pub fn new(traces: &'a [u8]) -> Self {
        Self { rest: traces }
    }

    /// The trace contexts of a message.
    pub fn of(message: &'a BatchRequest) -> Self {
        Self::new(&message.traces)
    }

    /// The context of the command at `position`, which is above those that were asked for before. `None`: it has none, or an invalid
    /// one.
    pub fn at(&mut self, position: usize) -> Option<TraceContext> {
        loop {
            let (entry, rest) = self.rest.split_first_chunk::<ENTRY_BYTES>()?;
            let (of, trace) = entry.split_first_chunk::<POSITION_BYTES>()?;
            let of = usize::from(u16::from_be_bytes(*of));
            if of > position {
                return None;
            }
            self.rest = rest;
            if of == position {
                return trace::from_bytes(trace.first_chunk()?);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::transport::limits::BATCH_COMMANDS_MAX;

    fn trace(byte: u8) -> TraceContext {
        TraceContext::new([byte; 16], [byte; 8], true).expect("no zeros")
    }

    fn found(traces: &[u8], count: usize) -> BTreeMap<usize, TraceContext> {
        let mut traces = Traces::new(traces);
        let found = (0..count).filter_map(|position| Some((position, traces.at(position)?)));
        found.collect()
    }

    #[test]
    fn what_is_out_of_order_unfinished_or_invalid_is_passed_over() {
        let mut traces = Vec::new();
        push_trace(&mut traces, 2, &trace(1));
        push_trace(&mut traces, 2, &trace(2));
        push_trace(&mut traces, 1, &trace(3));
        traces.extend_from_slice(&[0, 3]);
        traces.extend_from_slice(&[0; CONTEXT_BYTES]);
        push_trace(&mut traces, 4, &trace(4));
        push_trace(&mut traces, 5, &trace(5));
        traces.pop();
        let expected = BTreeMap::from([(2, trace(1)), (4, trace(4))]);
        assert_eq!(found(&traces, 9), expected);
    }

    #[test]
    fn every_command_of_the_largest_message_can_have_a_context() {
        let mut traces = Vec::new();
        push_trace(&mut traces, BATCH_COMMANDS_MAX - 1, &trace(1));
        assert_eq!(found(&traces, BATCH_COMMANDS_MAX).len(), 1);
        push_trace(&mut traces, usize::from(u16::MAX) + 1, &trace(1));
        assert_eq!(traces.len(), ENTRY_BYTES, "there is no such command");
    }

    proptest! {
        #[test]
        fn each_command_finds_its_own(
            sent in prop::collection::btree_map(0_usize..100, 1_u8.., 0..20),
        ) {
            let sent: BTreeMap<_, _> = sent.into_iter().map(|(position, byte)| (position, trace(byte))).collect();
            let mut traces = Vec::new();
            for (position, trace) in &sent {
                push_trace(&mut traces, *position, trace);
            }
            prop_assert_eq!(found(&traces, 100), sent);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = found(&bytes, 70_000);
        }
    }
}
