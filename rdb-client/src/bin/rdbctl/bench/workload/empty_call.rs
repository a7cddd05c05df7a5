//! `empty-call`: what a unary call costs when nothing is done in it.

use super::{Caller, Done};
use crate::bench::recorder::OperationError;
use crate::bench::target::EchoClient;

pub(crate) struct EmptyCallCaller {
    pub(crate) client: EchoClient,
}

impl Caller for EmptyCallCaller {
    async fn operate(&mut self) -> Result<Done, OperationError> {
        self.client.call_empty().await?;
        Ok(Done::default())
    }
}
