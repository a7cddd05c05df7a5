//! Reads the files of a server again when they change, and on SIGHUP.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::super::{HealthHandle, WarningAbout};
use super::{ClientTls, ServerTls, TlsError};

/// How often it looks whether a file has changed. It compares what is in them: dates say little where links are replaced.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Reading files for longer than this is reported.
const READING_PATIENCE: Duration = Duration::from_secs(10);

/// Keeps both ends of a server's TLS up to date.
#[derive(Debug)]
pub struct TlsKeeper {
    server: Arc<ServerTls>,
    client: Option<ClientTls>,
    /// `None`: it cannot be watched for.
    hang_up: Option<Signal>,
    health: HealthHandle,
    /// What was wrong when it looked last.
    told: Vec<String>,
}

impl TlsKeeper {
    /// From now on SIGHUP does not end the process by itself. Says what is wrong with what was read at start.
    pub fn new(server: Arc<ServerTls>, client: Option<ClientTls>, health: HealthHandle) -> Self {
        let hang_up = signal(SignalKind::hangup());
        let hang_up = hang_up.inspect_err(|error| {
            tracing::warn!(%error, "SIGHUP will not have certificates read again; changed files will");
        });
        let mut keeper = Self {
            server,
            client,
            hang_up: hang_up.ok(),
            health,
            told: Vec::new(),
        };
        keeper.tell(None);
        keeper
    }

    /// Reads again for as long as the process runs.
    async fn keep(mut self) {
        let mut looks = interval_at(Instant::now() + LOOK_INTERVAL, LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let asked = async {
                match &mut self.hang_up {
                    Some(hang_up) => hang_up.recv().await,
                    None => pending().await,
                }
            };
            let is_asked = tokio::select! {
                _ = asked => true,
                _ = looks.tick() => false,
            };
            let (server, client) = (Arc::clone(&self.server), self.client.clone());
            let mut reading = spawn_blocking(move || reload(&server, client.as_ref()));
            let read = match timeout(READING_PATIENCE, &mut reading).await {
                Ok(read) => read,
                Err(_) => {
                    let cause = "the files of certificates cannot be read: their disk or network does not answer";
                    self.tell(Some(cause.to_owned()));
                    reading.await
                }
            };
            // It does not panic; if it does, what was read before is used on.
            let Ok(reloaded) = read else {
                continue;
            };
            match &reloaded {
                Ok(true) => tracing::info!(
                    subject = self.server.subject(),
                    "the certificates were read again: new connections use them"
                ),
                Ok(false) if is_asked => {
                    tracing::info!("the certificates were read again: they are the same");
                }
                Ok(false) | Err(_) => {}
            }
            if is_asked {
                // A reload on request logs all warnings again.
                self.told.clear();
            }
            self.tell(reloaded.err().map(|error| error.to_string()));
        }
    }

    /// Says what is wrong: in the log when that is new, and in the health as long as it is so.
    fn tell(&mut self, error: Option<String>) {
        let mut wrong = self.server.warnings();
        if let Some(client) = &self.client {
            // They may have the same CAs.
            let of_client = client.warnings().into_iter();
            let others: Vec<_> = of_client.filter(|other| !wrong.contains(other)).collect();
            wrong.extend(others);
            wrong.extend(self.server.unfit_as_client());
        }
        wrong.extend(
            error.map(|error| {
                format!("{error}. The certificates that were read before are used on")
            }),
        );
        for warning in wrong.iter().filter(|warning| !self.told.contains(warning)) {
            tracing::warn!("{warning}");
        }
        let warning = (!wrong.is_empty()).then(|| wrong.join("; "));
        self.health.warn(WarningAbout::Certificates, warning);
        self.told = wrong;
    }
}

/// Reads again for as long as the process runs, where there is something to read.
pub async fn keep(keeper: Option<TlsKeeper>) {
    match keeper {
        Some(keeper) => keeper.keep().await,
        None => pending().await,
    }
}

/// Whether one of them has changed. Both are read even if one fails.
fn reload(server: &ServerTls, client: Option<&ClientTls>) -> Result<bool, TlsError> {
    let of_server = server.reload();
    let of_client = client.map_or(Ok(false), ClientTls::reload);
    Ok(of_server? | of_client?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::super::certificates::{Ca, Files};
    use super::super::{client_tls, server_tls};
    use super::*;

    #[test]
    fn both_ends_are_read_again_even_if_one_cannot_be_used() {
        let directory = TempDir::new().expect("the temporary directory can be written");
        let ca = Ca::new();
        let files = Files::write(directory.path(), &ca.server(), &ca);
        let other_ca = directory.path().join("other.pem");
        fs::write(&other_ca, &ca.pem).expect("it can be written");
        let (certificate, key) = (Some(&*files.certificate), Some(&*files.key));
        let server = server_tls(certificate, key, Some(&files.ca));
        let server = server.expect("it can be used").expect("it is TLS");
        let client = client_tls(Some(&other_ca), certificate, key, None);
        let client = client.expect("it can be used").expect("it is TLS");
        let reload = || reload(&server, Some(&client));
        assert_eq!(reload(), Ok(false));
        files.replace(&ca.server());
        assert_eq!(reload(), Ok(true));
        assert_eq!(client.reload(), Ok(false), "it was read");

        fs::write(&files.ca, "broken").expect("it can be written");
        fs::write(&other_ca, Ca::new().pem).expect("it can be written");
        reload().expect_err("the CA of the server's clients is broken");
        assert_eq!(client.reload(), Ok(false), "it was read");
        fs::write(&files.ca, &ca.pem).expect("it can be written");
        fs::write(&other_ca, "broken").expect("it can be written");
        files.replace(&ca.server());
        reload().expect_err("the CA of other servers is broken");
        assert_eq!(server.reload(), Ok(false), "it was read");
    }
}
