//! `tso`: one timestamp per operation.

use rdb_client::Client;

use super::{Caller, Done};
use crate::bench::recorder::OperationError;

pub(crate) struct TsoCaller {
    client: Client,
    last: u64,
}

impl TsoCaller {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, last: 0 }
    }
}

impl Caller for TsoCaller {
    async fn operate(&mut self) -> Result<Done, OperationError> {
        let timestamp = self.client.tso().await?.as_u64();
        if timestamp <= self.last {
            return Err(OperationError {
                kind: "order".to_owned(),
                message: "a timestamp is not greater than the one before".to_owned(),
            });
        }
        self.last = timestamp;
        Ok(Done::default())
    }
}
