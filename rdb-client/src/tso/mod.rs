//! Timestamps from the placement driver's oracle.
//!
//! Concurrent calls share one stream: they gather in *rounds*, each of which becomes one request, built when the
//! transport asks for it. Nothing waits for a round to fill up; rounds grow because only a few requests are in flight.
//!
//! A call's timestamps always come from a request that was sent after the call began: so they are greater than any that was
//! taken before. A request whose answer got lost is sent again; the timestamps of the lost answer are skipped, and none
//! is kept for later.
//!
//! - `call`: one caller, from taking its seat to its timestamps or its deadline
//! - `rounds`: who sits where; the rule above is kept there
//! - `dispatcher`: the rounds as all calls share them
//! - `requests`: the requests as the transport polls for them
//! - `driver`: the task that holds the stream, hands out its answers, and opens another when it breaks
//!
//! Left out: the placement driver's side, which answers in order (`pdpb.Pd/Tso`).

mod call;
mod dispatcher;
mod driver;
mod requests;
mod rounds;

use rdb_proto::pdpb::GetTsoRequest;

use self::call::Call;
pub(crate) use self::dispatcher::TsoStream;
use crate::{Client, Error, Timestamp, Timestamps};

impl Client {
    /// Takes a timestamp. One taken after an event is greater than every one taken before it, by whomever.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] or [`Error::DeadlineExceeded`] when the placement driver gives none in time; [`Error::Busy`]
    /// when a million calls wait already.
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
        let first = match self.tso_stream() {
            Some(stream) => Call::new(stream.dispatcher(), count, self.deadline()).await?,
            None => self.tso_unary(count).await?,
        };
        Timestamps::new(first, count).ok_or_else(unasked)
    }

    async fn tso_unary(&self, count: u32) -> Result<u64, Error> {
        let request = GetTsoRequest { count: Some(count) };
        let asked = self
            .router()
            .placement_driver()
            .ask(self.deadline(), |mut client| async move {
                client.get_tso(request).await
            });
        let answer = asked.await?;
        match answer.count == count {
            true => Ok(answer.first),
            false => Err(unasked()),
        }
    }
}

/// What an answer is that does not fit its request.
fn unasked() -> Error {
    Error::internal("the placement driver gave other timestamps than asked for")
}
