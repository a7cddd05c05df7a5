//! The options that subcommands share: how to connect, and how keys are typed.

use rdb_client::{Client, Config, ProcessHealth};

use crate::arguments::GlobalArguments;
use crate::encoding::{KeyArgument, KeyEncoding};
use crate::failure::Failure;

/// The global options as the subcommands need them.
pub(crate) struct Session {
    pd_addresses: Vec<String>,
    config: Config,
    keys: KeyEncoding,
}

impl Session {
    pub(crate) fn new(global: &GlobalArguments) -> Self {
        Self {
            pd_addresses: global.pd.clone(),
            config: Config::default()
                .with_timeout(global.timeout)
                .with_connect_timeout(global.connect_timeout()),
            keys: global.key_encoding,
        }
    }

    /// The same, with a unary call for each call or not.
    pub(crate) fn with_unary(mut self, unary: bool) -> Self {
        self.config = self.config.with_unary(unary);
        self
    }

    /// Connects; arguments are checked before, so that wrong ones are refused also when nothing answers.
    ///
    /// Of several placement drivers that belong to different clusters the first to answer would decide which cluster is
    /// read and written. That is refused.
    pub(crate) async fn connect(&self) -> Result<Client, Failure> {
        let addresses = self.pd_addresses.iter().cloned();
        let client = Client::connect_with(addresses, self.config.clone()).await?;
        if self.pd_addresses.len() > 1 {
            client.check_placement_drivers().await?;
        }
        Ok(client)
    }

    /// The health of each process, also when no placement driver answers.
    pub(crate) async fn health(&self) -> Result<Vec<ProcessHealth>, Failure> {
        let addresses = self.pd_addresses.iter().cloned();
        Ok(Client::health_at(addresses, self.config.clone()).await?)
    }

    /// A key as it was typed; never empty.
    pub(crate) fn key(&self, argument: KeyArgument) -> Result<Vec<u8>, Failure> {
        let key = self.bound(argument)?;
        if key.is_empty() {
            return Err(Failure::usage(
                "the key is empty; a key has at least one byte",
            ));
        }
        Ok(key)
    }

    /// A bound or prefix of keys as it was typed.
    pub(crate) fn bound(&self, argument: KeyArgument) -> Result<Vec<u8>, Failure> {
        self.keys.decode(argument)
    }

    pub(crate) fn not_found(&self, key: &[u8]) -> Failure {
        Failure::not_found(format!("not found: {}", self.shown(key)))
    }

    /// How keys are printed in messages.
    pub(crate) fn shown(&self, key: &[u8]) -> String {
        self.keys.encode(key)
    }
}
