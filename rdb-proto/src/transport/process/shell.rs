//! What surrounds the services of a server: where it listens, what it reports of its calls, its status pages, and their end.
//!
//! A server opens its [`Telemetry`] and its [`Ports`] as soon as it has what each needs, then the [`Shell`], which runs its tasks.
//! When those have ended, [`Shell::end`] ends the rest.

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::task::{JoinError, JoinHandle, spawn_blocking};
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::super::HealthHandle;
use super::super::limits::CLOSE_TIMEOUT;
use super::super::status::{Source, StatusAddress, StatusListenError, StatusServer};
use crate::audit::{self, AuditLog, AuditWriter};
use crate::spans::{self, Origin, OtlpEndpoint, SpanExporter, Spans};

/// What a server tells of its calls, beside its log and its metrics.
#[derive(Debug)]
pub struct Telemetry {
    /// Takes spans of sampled traces.
    pub spans: Spans,
    /// Takes administrative calls and refusals, if they are written down.
    pub audit: Option<AuditLog>,
    origin: Origin,
    span_exporter: Option<SpanExporter>,
    audit_writer: Option<AuditWriter>,
}

impl Telemetry {
    /// Begins to send spans, if there is a collector to send them to. Needs a tokio runtime.
    pub fn start(
        audit: Option<(AuditLog, AuditWriter)>,
        collector: Option<&OtlpEndpoint>,
        origin: Origin,
    ) -> Self {
        let (audit, audit_writer) = audit.unzip();
        let (spans, span_exporter) = spans::start(collector, origin.clone());
        Self {
            spans,
            audit,
            origin,
            span_exporter,
            audit_writer,
        }
    }
}

/// Where a server listens. Nobody is answered yet.
#[derive(Debug)]
pub struct Ports {
    listener: TcpListener,
    /// Where calls come from.
    pub local_addr: SocketAddr,
    /// `None`: no status pages are wanted.
    status: Option<TcpListener>,
}

/// An address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The port of the services.
    #[error("cannot listen on {address}")]
    Services {
        /// The address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The port of the status pages.
    #[error(transparent)]
    Status(#[from] StatusListenError),
}

impl Ports {
    /// Listens on `address`, and for the status pages where `status` says, or beside it.
    ///
    /// # Errors
    ///
    /// [`ListenError`] when an address that was asked for cannot be listened on.
    pub async fn listen(
        address: SocketAddr,
        status: Option<StatusAddress>,
    ) -> Result<Self, ListenError> {
        let failed = |source| ListenError::Services { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let local_addr = listener.local_addr().map_err(failed)?;
        let status = StatusAddress::listen_for(status, address).await?;
        Ok(Self {
            listener,
            local_addr,
            status,
        })
    }
}

/// What is around the services of a server that runs. Dropping it starts the drain.
#[derive(Debug)]
pub struct Shell {
    /// Where it listens.
    pub local_addr: SocketAddr,
    /// Whether it does its work.
    pub health: HealthHandle,
    /// Cancel it to start the drain.
    pub drain: CancellationToken,
    status: Option<StatusServer>,
    span_exporter: Option<SpanExporter>,
    audit_writer: Option<AuditWriter>,
    _drain_on_drop: DropGuard,
}

impl Shell {
    /// Begins to show `source`, if there are status pages. From now on `health` says what is wrong with the audit log. Returns where the
    /// services are to be served, too.
    ///
    /// # Errors
    ///
    /// When a listener has no address.
    pub fn open(
        ports: Ports,
        telemetry: Telemetry,
        health: HealthHandle,
        drain: CancellationToken,
        source: Arc<dyn Source>,
    ) -> Result<(Self, TcpListener), ListenError> {
        if let Some(audit) = telemetry.audit {
            audit.tell(health.clone());
        }
        let address = ports.local_addr;
        let (program, version) = (telemetry.origin.program, telemetry.origin.version);
        let status = ports
            .status
            .map(|listener| StatusServer::start(listener, program, version, source))
            .transpose()
            .map_err(|source| ListenError::Services { address, source })?;
        let shell = Self {
            local_addr: address,
            health,
            drain: drain.clone(),
            status,
            span_exporter: telemetry.span_exporter,
            audit_writer: telemetry.audit_writer,
            _drain_on_drop: drain.drop_guard(),
        };
        Ok((shell, ports.listener))
    }

    /// Where its status pages are, if there are any.
    pub fn status_addr(&self) -> Option<SocketAddr> {
        self.status.as_ref().map(StatusServer::local_addr)
    }

    /// Runs a task of the server. When it ends, for any reason, the drain starts.
    pub fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        let drain = self.drain.clone().drop_guard();
        tokio::spawn(async move {
            let _drain = drain;
            task.await
        })
    }

    /// Ends the rest once the tasks have ended, in this order: the status pages, to drop what they hold; the storage, which `closing`
    /// closes, and concurrently the waiting spans; the audit log, once all events are noted.
    ///
    /// # Errors
    ///
    /// When closing panics.
    pub async fn end<E: Display + Send + 'static>(
        self,
        closing: impl FnOnce() -> Result<(), E> + Send + 'static,
    ) -> Result<(), JoinError> {
        if let Some(status) = self.status {
            status.end().await;
        }
        let closing_began = Instant::now();
        let (closed, ()) = tokio::join!(close(closing), spans::end(self.span_exporter));
        audit::end(self.audit_writer, closing_began).await;
        closed
    }
}

/// Closes a storage in the time that a drain leaves for that. What is not flushed by then is in the write-ahead log, and the
/// next open replays it.
async fn close<E: Display + Send + 'static>(
    closing: impl FnOnce() -> Result<(), E> + Send + 'static,
) -> Result<(), JoinError> {
    match timeout(CLOSE_TIMEOUT, spawn_blocking(closing)).await {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => tracing::warn!(%error, "not everything was flushed; nothing is lost"),
        Ok(Err(panic)) => return Err(panic),
        Err(_) => {
            tracing::warn!(
                "flushing took too long and was left to the next start; nothing is lost"
            );
        }
    }
    Ok(())
}
