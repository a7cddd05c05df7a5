//! Timestamps from the placement driver's oracle.
//!
//! Each call sends its own request, after the call began: so its timestamps are greater than any that was taken before. A
//! request whose answer got lost is sent again; the timestamps of the lost answer are skipped.

use rdb_proto::pdpb::GetTsoRequest;

use crate::{Client, Error, Timestamp, Timestamps};

impl Client {
    /// Takes a timestamp. One taken after an event is greater than every one taken before it, by whomever.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] or [`Error::DeadlineExceeded`] when the placement driver gives none in time.
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
        let request = GetTsoRequest { count: Some(count) };
        let asked = self
            .router()
            .placement_driver()
            .ask(self.deadline(), |mut client| async move {
                client.get_tso(request).await
            });
        let answer = asked.await?;
        Timestamps::new(answer.first, answer.count)
            .filter(|timestamps| timestamps.len() == count as usize)
            .ok_or_else(|| {
                Error::internal("the placement driver gave other timestamps than asked for")
            })
    }
}
