//! The options that subcommands share: how to connect, and how keys are typed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdb_client::auth::Enabled;
use rdb_client::{Client, Config, ProcessHealth, Tls, TokenSource};

use crate::arguments::GlobalArguments;
use crate::encoding::{KeyArgument, KeyEncoding};
use crate::failure::Failure;

/// The client that connected last. Clones keep the same one.
#[derive(Debug, Clone, Default)]
pub(crate) struct KeptClient(Arc<Mutex<Option<Connected>>>);

#[derive(Debug)]
struct Connected {
    pd_addresses: Vec<String>,
    connect_timeout: Duration,
    tls: Option<Tls>,
    token: Option<TokenSource>,
    client: Client,
}

/// The global options as the subcommands need them.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    pd_addresses: Vec<String>,
    config: Config,
    keys: KeyEncoding,
    kept: KeptClient,
    is_in_shell: bool,
}

impl KeptClient {
    /// The client, if it was given these addresses, certificates and token, and is as patient when it connects.
    fn of(&self, pd_addresses: &[String], config: &Config) -> Option<Client> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = kept.as_ref()?;
        let is_same = kept.pd_addresses == pd_addresses
            && kept.tls == config.tls
            && kept.token == config.token;
        let is_fit = is_same && kept.connect_timeout >= config.connect_timeout;
        is_fit.then(|| kept.client.clone())
    }

    fn keep(&self, pd_addresses: &[String], config: &Config, client: &Client) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *kept = Some(Connected {
            pd_addresses: pd_addresses.to_vec(),
            connect_timeout: config.connect_timeout,
            tls: config.tls.clone(),
            token: config.token.clone(),
            client: client.clone(),
        });
    }
}

impl Session {
    pub(crate) fn new(global: &GlobalArguments) -> Result<Self, Failure> {
        let config = Config::default()
            .with_timeout(global.timeout)
            .with_connect_timeout(global.connect_timeout());
        let mut config = match global.tls()? {
            Some(tls) => config.with_tls(tls),
            None => config,
        };
        config.token = global.token()?;
        Ok(Self {
            pd_addresses: global.pd.clone(),
            config,
            keys: global.key_encoding,
            kept: KeptClient::default(),
            is_in_shell: false,
        })
    }

    /// The same, with the client of an earlier session if that was given the same addresses.
    pub(crate) fn keeping(self, kept: &KeptClient) -> Self {
        let kept = kept.clone();
        Self { kept, ..self }
    }

    /// The same, of a command in a shell or not.
    pub(crate) fn in_shell(self, is_in_shell: bool) -> Self {
        Self {
            is_in_shell,
            ..self
        }
    }

    /// Whether the command runs in a shell, which has standard input for its lines.
    pub(crate) fn is_in_shell(&self) -> bool {
        self.is_in_shell
    }

    /// The same, with calls that take no longer than `patience`.
    pub(crate) fn within(&self, patience: Duration) -> Self {
        let timeout = self.config.timeout.min(patience);
        let connect_timeout = self.config.connect_timeout.min(patience);
        let config = self.config.clone().with_timeout(timeout);
        Self {
            config: config.with_connect_timeout(connect_timeout),
            ..self.clone()
        }
    }

    /// How long a call may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.config.timeout
    }

    /// The same, with a unary call for each call or not.
    pub(crate) fn with_unary(mut self, unary: bool) -> Self {
        self.config = self.config.with_unary(unary);
        self
    }

    /// Connects, unless a client is kept. Arguments are checked before, so that wrong ones are refused even when nothing answers.
    ///
    /// Placement drivers of different clusters are refused: the first to answer would decide which cluster is read and written.
    pub(crate) async fn connect(&self) -> Result<Client, Failure> {
        if let Some(client) = self.kept.of(&self.pd_addresses, &self.config) {
            return Ok(client.with_timeout(self.config.timeout));
        }
        let addresses = self.pd_addresses.iter().cloned();
        let client = Client::connect_with(addresses, self.config.clone()).await?;
        if self.pd_addresses.len() > 1 {
            client.check_placement_drivers().await?;
        }
        self.kept.keep(&self.pd_addresses, &self.config, &client);
        Ok(client)
    }

    /// Makes the first administrator. The caller has no token yet, but may already have named the file that will hold it.
    pub(crate) async fn enable_auth(&self, user: &str) -> Result<Enabled, Failure> {
        let addresses = self.pd_addresses.iter().cloned();
        let mut config = self.config.clone();
        config.token = None;
        Ok(Client::enable_auth_at(addresses, config, user).await?)
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
