//! Items that wait to be sent on a stream, and the envelopes that are made of them.
//!
//! An envelope is made when the transport asks for one, from the items that wait then. Nothing is delayed to fill it.

use std::sync::Arc;

use futures::{Stream, StreamExt, stream};
use rdb_proto::raftpb::{Envelope, Item};
use rdb_proto::transport::limits::RAFT_ITEMS_MAX;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;

/// An envelope ends with the item that brings it to this size, in bytes. Even with the largest item it stays below the limit of a message.
const ENVELOPE_BYTES: usize = 1 << 20;

/// An item that waits.
pub(super) struct Outgoing {
    pub(super) item: Item,
    /// About its size.
    pub(super) bytes: usize,
    /// Keeps its part of the connection's bytes until it is in an envelope.
    pub(super) _room: Option<Arc<OwnedSemaphorePermit>>,
}

/// The envelopes of a stream: the greeting, and then what comes from `lane` until `closed` is cancelled.
pub(super) fn envelopes(
    greeting: Envelope,
    lane: mpsc::Receiver<Outgoing>,
    closed: CancellationToken,
) -> impl Stream<Item = Envelope> + Send + 'static {
    let envelopes = stream::unfold((lane, None), |(mut lane, next)| async move {
        let first = match next {
            Some(next) => next,
            None => lane.recv().await?,
        };
        let (envelope, next) = gather(first, || lane.try_recv().ok());
        Some((envelope, (lane, next)))
    });
    let greeting = stream::iter([greeting]);
    greeting
        .chain(envelopes)
        .take_until(closed.cancelled_owned())
}

/// An envelope of waiting items, and the item that no longer fits.
fn gather(
    first: Outgoing,
    mut waiting: impl FnMut() -> Option<Outgoing>,
) -> (Envelope, Option<Outgoing>) {
    let mut bytes = first.bytes;
    let mut items = vec![first.item];
    let mut next = None;
    while bytes < ENVELOPE_BYTES && items.len() < RAFT_ITEMS_MAX {
        let Some(outgoing) = waiting() else {
            break;
        };
        if bytes + outgoing.bytes > ENVELOPE_BYTES {
            next = Some(outgoing);
            break;
        }
        bytes += outgoing.bytes;
        items.push(outgoing.item);
    }
    let hello = None;
    (Envelope { hello, items }, next)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    fn outgoing(session: u64, bytes: usize) -> Outgoing {
        let item = Item {
            session,
            ..Item::default()
        };
        Outgoing {
            item,
            bytes,
            _room: None,
        }
    }

    fn envelopes_of(sizes: &[usize]) -> Vec<Vec<u64>> {
        let items = (0..).zip(sizes).map(|(id, bytes)| outgoing(id, *bytes));
        let mut waiting: VecDeque<_> = items.collect();
        let mut next = waiting.pop_front();
        let mut envelopes = Vec::new();
        while let Some(first) = next {
            let (envelope, left) = gather(first, || waiting.pop_front());
            envelopes.push(envelope.items.iter().map(|item| item.session).collect());
            next = left.or_else(|| waiting.pop_front());
        }
        envelopes
    }

    #[test]
    fn what_waits_shares_an_envelope_up_to_its_size_and_keeps_its_order() {
        let half = ENVELOPE_BYTES / 2;
        assert_eq!(envelopes_of(&[1, half, 1]), [vec![0, 1, 2]]);
        assert_eq!(envelopes_of(&[half, half, 1]), [vec![0, 1], vec![2]]);
        let large = 6 * ENVELOPE_BYTES;
        assert_eq!(envelopes_of(&[1, large, 1]), [vec![0], vec![1], vec![2]]);
    }

    #[test]
    fn an_envelope_has_no_more_items_than_one_may_have() {
        let envelopes = envelopes_of(&vec![1; RAFT_ITEMS_MAX + 1]);
        let lengths: Vec<_> = envelopes.iter().map(Vec::len).collect();
        assert_eq!(lengths, [RAFT_ITEMS_MAX, 1]);
    }
}
