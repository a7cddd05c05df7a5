//! `Pd.Tso`: one answer per request, in order.
//!
//! A pass takes all requests that have arrived and allocates their timestamps together. The answers follow each other
//! without a pause, so that the transport can pack them into few frames.
//!
//! The next pass begins when the transport has taken all answers. A client that does not read its answers holds up only
//! itself. A request for too many timestamps ends the stream after the requests before it were answered, and so does the
//! closing of the connection. When no timestamps can be handed out, the stream ends and no request of the pass is answered.

use std::pin::Pin;
use std::sync::Arc;

use futures::stream::{self, BoxStream, Peekable};
use futures::{FutureExt, Stream, StreamExt, TryStreamExt};
use rdb_proto::pdpb::{GetTsoRequest, GetTsoResponse};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{SystemAllocator, allocate, checked_tso_count};
use crate::tso::COUNT_MAX;

/// Most requests of one pass.
const PASS_REQUESTS_MAX: usize = 256;

/// The answers to a stream of requests.
pub(super) type TsoStream = BoxStream<'static, Result<GetTsoResponse, Status>>;

pub(super) fn tso_stream<S>(
    requests: S,
    allocator: Arc<SystemAllocator>,
    cluster_id: u64,
    closing: CancellationToken,
) -> TsoStream
where
    S: Stream<Item = Result<GetTsoRequest, Status>> + Send + Unpin + 'static,
{
    let counts = requests.map(|request| checked_tso_count(&request?));
    let passes = stream::try_unfold(counts.peekable(), move |mut counts| {
        let allocator = Arc::clone(&allocator);
        async move {
            let pass = next_pass(Pin::new(&mut counts)).await?;
            if pass.is_empty() {
                return Ok::<_, Status>(None);
            }
            let mut next = allocate(&allocator, pass.iter().sum()).await?;
            let answers = pass.into_iter().map(move |count| {
                let first = next;
                next += u64::from(count);
                GetTsoResponse {
                    first,
                    count,
                    cluster_id,
                }
            });
            Ok(Some((stream::iter(answers.map(Ok)), counts)))
        }
    });
    // Between passes only. An unfinished allocation has spent no timestamps, so it can be dropped.
    let passes = passes.take_until(closing.cancelled_owned());
    passes.try_flatten().boxed()
}

/// Waits for a request, and takes those that have arrived, together for at most [`COUNT_MAX`] timestamps. An error stays for
/// the next pass, unless it comes first. Empty: no request will come.
async fn next_pass<S>(mut counts: Pin<&mut Peekable<S>>) -> Result<Vec<u32>, Status>
where
    S: Stream<Item = Result<u32, Status>>,
{
    let Some(first) = counts.next().await.transpose()? else {
        return Ok(Vec::new());
    };
    let (mut pass, mut sum) = (vec![first], first);
    while pass.len() < PASS_REQUESTS_MAX {
        let fits =
            |next: &Result<u32, Status>| matches!(next, Ok(count) if sum + count <= COUNT_MAX);
        // When none has arrived, the next pass asks again, and is woken.
        let Some(Some(Ok(count))) = counts.as_mut().next_if(fits).now_or_never() else {
            break;
        };
        pass.push(count);
        sum += count;
    }
    Ok(pass)
}
