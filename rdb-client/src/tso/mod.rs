//! Timestamps from the placement driver's oracle.
//!
//! Concurrent calls share one stream. They gather in *rounds*, and a round becomes one request when the transport asks for
//! one. No call waits for a round to fill up: calls gather while the few requests in flight are answered.
//!
//! A call's timestamps come from a request that was sent after the call began. So they are greater than all that were taken
//! before. A request whose answer got lost is sent again. The timestamps of the lost answer are skipped; none are kept for
//! later calls.
//!
//! An answer must name this client's cluster. Its timestamps must lie above all that had been given when it came over the stream. Without
//! a stream they must lie above all that had been given when its request was sent, and overlap with none that were given since. Otherwise
//! all calls that wait for it end with an error.
//!
//! - `call`: one caller, from taking its seat to its timestamps or its deadline.
//! - `round_timer`: one timer for all callers of a round.
//! - `rounds`: which call gets its timestamps from which request. It keeps the first rule above.
//! - `stream`: the rounds that all calls share, and their stream.
//! - `watermark`: keeps the second rule.
//!
//! Left out: the placement driver's side, which answers in order (`pdpb.Pd/Tso`).

mod call;
mod round_timer;
mod rounds;
mod stream;
mod watermark;

use rdb_proto::pdpb::pd_client::PdClient;
use rdb_proto::pdpb::{GetTsoRequest, GetTsoResponse};

use self::call::Call;
pub(crate) use self::stream::TimestampStream;
pub(crate) use self::watermark::Watermark;
use crate::connection::Channel;
use crate::figures::CallKind;
use crate::retry::Deadline;
use crate::{Client, Error, Timestamp, Timestamps};

impl Client {
    /// Takes a timestamp. A timestamp taken after an event is greater than every one that any client took before it.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] or [`Error::DeadlineExceeded`] when the placement driver gives none in time; [`Error::Busy`]
    /// when a million calls wait already; [`Error::Internal`] when it gives one that is not above those it gave before.
    pub async fn tso(&self) -> Result<Timestamp, Error> {
        Ok(self.tso_batch(1).await?.first())
    }

    /// Takes `count` consecutive timestamps at once.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when `count` is 0 or exceeds the [`limits`](Self::limits); otherwise as [`Client::tso`].
    pub async fn tso_batch(&self, count: u32) -> Result<Timestamps, Error> {
        self.limits().check_tso_count(count)?;
        let deadline = self.deadline();
        let first = match self.tso_stream() {
            Some(stream) => {
                // It is in flight as long as its seat is taken.
                let mut begun = self.router().counters().figures().begin(CallKind::Tso);
                let first = Call::new(stream, count, deadline).await;
                begun.end(&first);
                first?
            }
            None => self.tso_unary(count, deadline).await?,
        };
        Timestamps::new(first, count).ok_or_else(unasked)
    }

    async fn tso_unary(&self, count: u32, deadline: Deadline) -> Result<u64, Error> {
        let placement_driver = self.router().placement_driver();
        let asked = self.watermark().ask();
        let request = GetTsoRequest { count: Some(count) };
        let question = |mut client: PdClient<Channel>| async move { client.get_tso(request).await };
        let first = |answer: GetTsoResponse| -> Result<u64, Error> {
            placement_driver.check_cluster(answer.cluster_id)?;
            asked.raise(count, &answer)?;
            Ok(answer.first)
        };
        placement_driver
            .ask_for(CallKind::Tso, deadline, question, first)
            .await
    }
}

/// What an answer is that does not fit its request.
fn unasked() -> Error {
    Error::internal("the placement driver gave other timestamps than asked for")
}
