//! `grpc.health.v1.Health`, with one status for the process and all of its services.
//!
//! Not `tonic_health`'s own server, because its watch streams end only when a status is removed: here a drain turns the
//! status to NOT_SERVING and ends every watch, so that graceful shutdown does not wait for watchers. Those of a connection
//! that is closed for another reason end with UNAVAILABLE.
//!
//! The protocol has no room for a cause. It travels beside the answer of a check, in [`NOT_SERVING_CAUSE`]. Causes and warnings name
//! addresses and files. So with rights enforced, only callers that are signed in or on this machine are told.

use std::collections::BTreeMap;
use std::pin::Pin;

use futures::{Stream, StreamExt, stream};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::CancellationToken;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::call::Call;

/// The metadata of a check's answer that says, in printable ASCII, why the process does not serve.
pub const NOT_SERVING_CAUSE: &str = "flaredb-not-serving-cause";

/// The metadata of a check's answer that says, in printable ASCII, what an operator has to look at though the process serves. Each warning is
/// a value.
pub const WARNING: &str = "flaredb-warning";

/// Longest cause that is sent, in characters.
const CAUSE_CHARS_MAX: usize = 1024;

/// `Err`: why the process does not do its work.
type Serving = Result<(), String>;

/// What a warning is about. Each has its own place: one does not displace another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum WarningAbout {
    /// Certificates and keys.
    Certificates,
    /// Who may do what.
    Rights,
    /// What is written down of calls.
    AuditLog,
    /// The place of a store in its cluster.
    PlacementDriver,
}

type Warnings = BTreeMap<WarningAbout, String>;

/// Sets the status that [`health`] serves. Cheap to clone.
#[derive(Debug, Clone)]
pub struct HealthHandle {
    serving: watch::Sender<Serving>,
    /// Whether a service manager may count the process as started.
    started: watch::Sender<bool>,
    /// What an operator has to look at though the process does its work.
    warnings: watch::Sender<Warnings>,
    drain: CancellationToken,
}

impl HealthHandle {
    /// Sets what an operator has to look at although the process does its work; `None`: nothing.
    pub fn warn(&self, about: WarningAbout, warning: Option<String>) {
        self.warnings.send_modify(|warnings| match warning {
            Some(warning) => {
                warnings.insert(about, warning);
            }
            None => {
                warnings.remove(&about);
            }
        });
    }

    /// What an operator has to look at.
    pub fn warning(&self) -> Option<String> {
        joined(&self.warnings.borrow())
    }

    /// Says from now on that the process does its work, or that it does not. Watchers hear of changes only.
    pub fn set_serving(&self, serving: bool) {
        self.set(serving.then_some(()).ok_or_else(String::new));
    }

    /// The same, with the reason why it does not. A process that does its work has started.
    pub fn set(&self, serving: Result<(), String>) {
        if serving.is_ok() {
            self.set_started();
        }
        self.serving.send_if_modified(|current| {
            let changed = *current != serving;
            *current = serving;
            changed
        });
    }

    /// Says that the process has started, though it may not do all of its work.
    pub fn set_started(&self) {
        self.started
            .send_if_modified(|started| !std::mem::replace(started, true));
    }

    /// Sees that the process has started.
    #[cfg(feature = "process")]
    pub(super) fn started(&self) -> watch::Receiver<bool> {
        self.started.subscribe()
    }

    /// Sees every change, but not the drain.
    #[cfg(feature = "process")]
    pub(super) fn subscribe(&self) -> watch::Receiver<Serving> {
        self.serving.subscribe()
    }

    /// Whether the process does its work at the moment, as a check says; otherwise why not.
    ///
    /// # Errors
    ///
    /// The cause.
    pub fn present(&self) -> Result<(), String> {
        present(&self.serving.borrow(), &self.drain)
    }
}

fn joined(warnings: &Warnings) -> Option<String> {
    let all: Vec<_> = warnings.values().map(String::as_str).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

fn present(serving: &Serving, drain: &CancellationToken) -> Serving {
    if drain.is_cancelled() {
        return Err("it is stopping".to_owned());
    }
    serving.clone()
}

/// The health service for the process as a whole (service name `""`) and for each of `services`. It starts as
/// NOT_SERVING, and is NOT_SERVING for good once `drain` is cancelled.
pub fn health(
    services: &'static [&'static str],
    drain: CancellationToken,
) -> (HealthHandle, HealthServer<impl Health>) {
    let (sender, receiver) = watch::channel(Err("it is starting".to_owned()));
    let warnings = watch::Sender::new(Warnings::new());
    let service = HealthService {
        services,
        serving: receiver,
        warnings: warnings.subscribe(),
        drain: drain.clone(),
    };
    let handle = HealthHandle {
        serving: sender,
        started: watch::Sender::default(),
        warnings,
        drain,
    };
    (handle, HealthServer::new(service))
}

struct HealthService {
    services: &'static [&'static str],
    serving: watch::Receiver<Serving>,
    warnings: watch::Receiver<Warnings>,
    drain: CancellationToken,
}

impl HealthService {
    fn knows(&self, service: &str) -> bool {
        service.is_empty() || self.services.contains(&service)
    }
}

fn response(known: bool, serving: bool) -> HealthCheckResponse {
    let status = match (known, serving) {
        (false, _) => ServingStatus::ServiceUnknown,
        (true, true) => ServingStatus::Serving,
        (true, false) => ServingStatus::NotServing,
    };
    HealthCheckResponse {
        status: status.into(),
    }
}

/// As much of `text` as metadata can hold.
fn printable(text: &str) -> Option<MetadataValue<Ascii>> {
    let printable = |c: &char| c.is_ascii_graphic() || *c == ' ';
    let text: String = text
        .chars()
        .filter(printable)
        .take(CAUSE_CHARS_MAX)
        .collect();
    text.parse().ok()
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        if !self.knows(&request.get_ref().service) {
            return Err(Status::not_found("no such service here"));
        }
        let serving = present(&self.serving.borrow(), &self.drain);
        let mut answer = Response::new(response(true, serving.is_ok()));
        if !Call::of(&request).is_insider() {
            return Ok(answer);
        }
        if let Err(cause) = serving
            && let Some(cause) = printable(&cause)
        {
            answer.metadata_mut().insert(NOT_SERVING_CAUSE, cause);
        }
        for warning in self.warnings.borrow().values() {
            if let Some(warning) = printable(warning) {
                answer.metadata_mut().append(WARNING, warning);
            }
        }
        Ok(answer)
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let known = self.knows(&request.get_ref().service);
        let closing = Call::of(&request).closing().clone();
        let drain = self.drain.clone();
        let ended = {
            let drain = drain.clone();
            async move { drain.run_until_cancelled(closing.cancelled()).await }
        };
        let changes = WatchStream::new(self.serving.clone())
            .map(move |serving| Ok(response(known, serving.is_ok())))
            .take_until(Box::pin(ended));
        let last = stream::once(async move {
            if drain.is_cancelled() {
                Ok(response(known, false))
            } else {
                Err(Status::unavailable("the connection is being closed"))
            }
        });
        let answers = changes.chain(last);
        Ok(Response::new(Box::pin(answers)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(service: &str) -> Request<HealthCheckRequest> {
        Request::new(HealthCheckRequest {
            service: service.to_owned(),
        })
    }

    #[tokio::test]
    async fn a_drain_turns_the_status_and_ends_watches() {
        let drain = CancellationToken::new();
        let (sender, serving) = watch::channel(Err(String::new()));
        let warnings = watch::Sender::new(Warnings::new());
        let handle = HealthHandle {
            serving: sender,
            started: watch::Sender::default(),
            warnings: warnings.clone(),
            drain: drain.clone(),
        };
        let service = HealthService {
            services: &["a.B"],
            serving,
            warnings: warnings.subscribe(),
            drain: drain.clone(),
        };

        handle.set(Err("no\nspace \u{2013} left".to_owned()));
        let checked = service.check(request("a.B")).await.expect("known service");
        let cause = checked.metadata().get(NOT_SERVING_CAUSE);
        assert_eq!(cause.expect("a cause"), "nospace  left");
        handle.set_serving(true);
        let checked = service.check(request("a.B")).await.expect("known service");
        assert_eq!(checked.get_ref().status(), ServingStatus::Serving);
        assert!(!checked.metadata().contains_key(NOT_SERVING_CAUSE));
        assert!(!checked.metadata().contains_key(WARNING));
        assert_eq!(handle.present(), Ok(()));
        handle.warn(WarningAbout::Rights, Some("and there".to_owned()));
        handle.warn(WarningAbout::Certificates, Some("look\nhere".to_owned()));
        let checked = service.check(request("a.B")).await.expect("known service");
        assert_eq!(checked.get_ref().status(), ServingStatus::Serving);
        let warnings = checked.metadata().get_all(WARNING).iter();
        assert_eq!(warnings.collect::<Vec<_>>(), ["lookhere", "and there"]);
        handle.warn(WarningAbout::Certificates, None);
        assert_eq!(handle.warning().as_deref(), Some("and there"));
        assert!(service.check(request("other")).await.is_err());

        let mut watch = service
            .watch(request(""))
            .await
            .expect("watch")
            .into_inner();
        let first = watch.next().await.expect("open").expect("status");
        assert_eq!(first.status(), ServingStatus::Serving);
        drain.cancel();
        assert_eq!(handle.present(), Err("it is stopping".to_owned()));
        let last = watch.next().await.expect("open").expect("status");
        assert_eq!(last.status(), ServingStatus::NotServing);
        assert!(watch.next().await.is_none());
        let checked = service.check(request("")).await.expect("known service");
        assert_eq!(checked.get_ref().status(), ServingStatus::NotServing);
    }

    #[cfg(feature = "process")]
    #[tokio::test]
    async fn causes_and_warnings_are_for_users_and_this_machine() {
        use std::sync::Arc;

        use super::super::budget::{ByteBudget, ProcessBudgets};
        use super::super::connection::Connection;
        use super::super::methods::Method;
        use crate::auth::{Caller, Guard, Rights, Token};
        use crate::authpb::{self, Grant, Role, User};

        let [token, stranger] = [Token::random(), Token::random()];
        let reader = Grant {
            role: Role::Reader.into(),
            ..Grant::default()
        };
        let user = User {
            name: "ada".to_owned(),
            token_hashes: vec![token.hash().to_vec().into()],
            grants: vec![reader],
            ..User::default()
        };
        let rights = authpb::Rights {
            version: 1,
            users: vec![user],
        };
        let rights = Arc::new(Rights::of(&rights).expect("good rights"));
        let (handle, server) = health(&[], CancellationToken::new());
        handle.warn(WarningAbout::Rights, Some("look here".to_owned()));
        let _ = server;
        let service = HealthService {
            services: &[],
            serving: handle.subscribe(),
            warnings: handle.warnings.subscribe(),
            drain: CancellationToken::new(),
        };
        let process = ByteBudget::new(0);
        let process = ProcessBudgets {
            clients: process.clone(),
            stores: process,
        };
        let enforced = Arc::new(Guard::without_limit(rights));
        let off = Arc::new(Guard::off());
        for (guard, token, peer, is_told) in [
            (&enforced, &token, "10.0.0.1:1", true),
            (&enforced, &stranger, "10.0.0.1:1", false),
            (&enforced, &stranger, "127.0.0.1:1", true),
            (&enforced, &stranger, "[::ffff:127.0.0.1]:1", true),
            (&off, &stranger, "10.0.0.1:1", true),
        ] {
            let connection = Connection::new(&process, CancellationToken::new());
            let peer = peer.parse().expect("an address");
            let connection = Arc::new(connection.of_peer(peer, None, Arc::default()));
            let caller = Caller::with_token(Arc::clone(guard), token);
            let call = Call::new(connection, Method::other(), None, caller, None, None);
            let mut request = request("");
            request.extensions_mut().insert(call);
            let answer = service.check(request).await.expect("known");
            assert_eq!(answer.get_ref().status(), ServingStatus::NotServing);
            for name in [WARNING, NOT_SERVING_CAUSE] {
                let told = answer.metadata().contains_key(name);
                assert_eq!(told, is_told, "{name}, {peer}");
            }
        }
        assert_eq!(enforced.refusals().unauthenticated(), 0);
    }
}
