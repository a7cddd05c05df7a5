//! The client itself: connecting, and what all calls share.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rdb_proto::pdpb::GetClusterInfoRequest;

use crate::counters::Counters;
use crate::dispatch::Dispatcher;
use crate::retry::Deadline;
use crate::routing::{PlacementDriver, Router};
use crate::tso::{TimestampStream, Watermark};
use crate::{Cause, ClientStats, Config, Error, Limits, TraceContext};

/// A connection to a cluster.
///
/// Calls need a tokio runtime with its timer and I/O enabled. Connections and streams, which calls share, are tasks on the
/// runtime of the call that needed them first. That runtime has to be driven for as long as there are calls. While it is not
/// driven, calls on other runtimes end at their deadlines without an answer. When it ends, the next call starts new tasks.
///
/// Cheap to clone and meant to be shared: clones use the same connections and the same knowledge of the cluster. Both end
/// with the last clone. A call whose future is dropped is abandoned: its write may have been applied, or may be applied
/// later.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    timeout: Duration,
    trace: Option<TraceContext>,
}

struct Shared {
    router: Router,
    limits: Limits,
    /// The watermark of timestamps.
    watermark: Arc<Watermark>,
    /// `None`: every call is a unary call.
    tso_stream: Option<TimestampStream>,
}

impl Client {
    /// Connects with the default [`Config`]. `pd_addresses` are the addresses of the placement driver, as `host:port`; it
    /// knows the stores.
    ///
    /// # Errors
    ///
    /// As [`Client::connect_with`].
    pub async fn connect<A: Into<String>>(
        pd_addresses: impl IntoIterator<Item = A>,
    ) -> Result<Self, Error> {
        Self::connect_with(pd_addresses, Config::default()).await
    }

    /// Connects: asks the addresses in turn for the cluster's id and limits, until the config's timeout.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] when the config is invalid, there is no address, one is not `host:port`, or what answers
    /// is no placement driver;
    /// [`Error::Unauthenticated`], at once, when the cluster wants to know who the client is and does not;
    /// [`Error::Unavailable`] or [`Error::DeadlineExceeded`] when none answers in time.
    pub async fn connect_with<A: Into<String>>(
        pd_addresses: impl IntoIterator<Item = A>,
        config: Config,
    ) -> Result<Self, Error> {
        let counters = Arc::<Counters>::default();
        let placement_driver =
            PlacementDriver::of(&config, pd_addresses, Arc::clone(&counters)).map(Arc::new)?;
        let deadline = Deadline::after(config.timeout);
        let answer = placement_driver.ask(deadline, |mut client| async move {
            let without_findings = true;
            let request = GetClusterInfoRequest { without_findings };
            client.get_cluster_info(request).await
        });
        let cluster = answer.await.map_err(|error| wanting(error, &config))?;
        let limits = Limits::advertised(cluster.limits)?;
        let watermark = Arc::<Watermark>::default();
        let (dispatcher, tso_stream) = if config.unary {
            (None, None)
        } else {
            let pool = Arc::clone(&placement_driver.connections);
            let commands_max = limits.batch_commands_max;
            let dispatcher = Dispatcher::new(pool, counters, commands_max);
            let tso_stream = TimestampStream::new(
                Arc::clone(&placement_driver),
                Arc::clone(&watermark),
                limits.tso_count_max,
            );
            (Some(dispatcher), Some(tso_stream))
        };
        let router = Router::new(cluster.cluster_id, placement_driver, dispatcher);
        Ok(Self {
            shared: Arc::new(Shared {
                router,
                limits,
                watermark,
                tso_stream,
            }),
            timeout: config.timeout,
            trace: None,
        })
    }

    /// The same client with another timeout for each call.
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self {
            timeout,
            ..self.clone()
        }
    }

    /// The same client for calls that are parts of a trace. Servers note the trace in their logs of slow commands. If they are set up
    /// for that, they send spans of sampled traces to a collector. `None`: its calls are parts of no trace.
    ///
    /// Calls are still sent together with those of other traces. Shared work has no trace: timestamps from
    /// [`Client::tso`], which calls get with one request, and the search for the leader of a region.
    ///
    /// ```no_run
    /// # use rdb_client::{Client, TraceContext};
    /// # async fn example(client: Client, traceparent: &str) -> Result<(), rdb_client::Error> {
    /// // An invalid `traceparent` counts as none.
    /// let client = client.with_trace(traceparent.parse::<TraceContext>().ok());
    /// client.raw_put("k1", "v1").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_trace(&self, trace: impl Into<Option<TraceContext>>) -> Self {
        Self {
            trace: trace.into(),
            ..self.clone()
        }
    }

    /// The id of the cluster that this client is connected to.
    pub fn cluster_id(&self) -> u64 {
        self.router().cluster_id()
    }

    /// The cluster's limits.
    pub fn limits(&self) -> Limits {
        self.shared.limits
    }

    /// Counters of this client and its clones.
    pub fn stats(&self) -> ClientStats {
        let mut stats = self.router().counters().stats();
        if let Some(tso_stream) = self.tso_stream() {
            tso_stream.count_in(&mut stats);
        }
        stats
    }

    pub(crate) fn router(&self) -> &Router {
        &self.shared.router
    }

    pub(crate) fn tso_stream(&self) -> Option<&TimestampStream> {
        self.shared.tso_stream.as_ref()
    }

    pub(crate) fn watermark(&self) -> &Watermark {
        &self.shared.watermark
    }

    /// The deadline of a call that begins now, with the trace of the client.
    pub(crate) fn deadline(&self) -> Deadline {
        Deadline::after(self.timeout).in_trace(self.trace)
    }
}

/// Adds advice to the error if the client has shown no token and so is no user.
fn wanting(error: Error, config: &Config) -> Error {
    match error {
        Error::Unauthenticated { cause } if config.token.is_none() => {
            let told = format!(
                "{cause}; this client has no token: give it one (Config::with_token_file, rdbctl --token-file)"
            );
            let cause = Cause::of(told, Error::Unauthenticated { cause });
            Error::Unauthenticated { cause }
        }
        other => other,
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Client")
            .field("cluster_id", &self.cluster_id())
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
