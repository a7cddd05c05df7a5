//! The placement drivers of `--pd`: how each is called, and which of them has this store in its cluster.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdb_proto::auth::TokenFile;
use rdb_proto::transport::{Connector, call_failure, endpoint};
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use crate::config::ConfigError;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Advice to the operator, who has to give this store a token or another one.
const IDENTITY_ADVICE: &str = "this store has to show who it is: give it the token of a user with the role `store` in --auth-token-file, or \
                               that role to the user of its certificate";

/// Channels to placement drivers, by their position in `--pd`. Cheap to clone.
///
/// One of several may belong to another cluster. So wherever a wrong one could do harm, only the one is believed that has *taken
/// in* this store since the start, by a registration or a heartbeat.
#[derive(Clone)]
pub(crate) struct PlacementDrivers(Arc<Shared>);

struct Shared {
    each: Vec<PlacementDriver>,
    token: Option<TokenFile>,
    /// The position of the one that took this store in last.
    taken_in_by: watch::Sender<Option<usize>>,
    /// Why none has since.
    trouble: Mutex<Option<String>>,
}

struct PlacementDriver {
    address: String,
    channel: Channel,
}

impl PlacementDrivers {
    /// Connects to nobody yet. Connections are made with `connector`, and calls have the token, if there is one.
    ///
    /// # Errors
    ///
    /// When an address cannot be one.
    pub(crate) fn new(
        addresses: &[String],
        connector: Connector,
        token: Option<TokenFile>,
    ) -> Result<Self, ConfigError> {
        let placement_driver = |address: &String| {
            let endpoint =
                endpoint(address, CONNECT_TIMEOUT).map_err(|problem| ConfigError::Address {
                    flag: "--pd",
                    problem,
                })?;
            let channel = endpoint.connect_with_connector_lazy(connector.clone());
            let address = address.clone();
            Ok::<_, ConfigError>(PlacementDriver { address, channel })
        };
        let each = addresses.iter().map(placement_driver);
        Ok(Self(Arc::new(Shared {
            each: each.collect::<Result<_, _>>()?,
            token,
            taken_in_by: watch::Sender::default(),
            trouble: Mutex::default(),
        })))
    }

    pub(crate) fn count(&self) -> usize {
        self.0.each.len()
    }

    /// The one to be asked after the one at `position`.
    pub(crate) fn after(&self, position: usize) -> usize {
        (position + 1) % self.count().max(1)
    }

    /// The one at `position` has taken this store in.
    pub(crate) fn note_taken_in(&self, position: usize) {
        let by = Some(position);
        let taken_in_by = &self.0.taken_in_by;
        taken_in_by.send_if_modified(|known| std::mem::replace(known, by) != by);
        *self.kept_trouble() = None;
    }

    /// None has taken this store in, for this cause.
    pub(crate) fn note_trouble(&self, cause: &str) {
        *self.kept_trouble() = Some(cause.to_owned());
    }

    /// Why none takes this store in. `None`: one has, or was not asked yet.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.kept_trouble().clone()
    }

    /// The message about a store that was never accepted.
    pub(crate) fn not_registered(&self) -> String {
        let what = "it has not registered with the placement driver";
        match self.trouble() {
            Some(cause) => format!("{what}: {cause}"),
            None => what.to_owned(),
        }
    }

    fn kept_trouble(&self) -> MutexGuard<'_, Option<String>> {
        let trouble = &self.0.trouble;
        trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one that has taken this store in last. `None`: none has since the start.
    pub(crate) fn taken_in_by(&self) -> watch::Receiver<Option<usize>> {
        self.0.taken_in_by.subscribe()
    }

    /// Calls the one at `position`. The message of a failure is a line that names it.
    ///
    /// # Errors
    ///
    /// What it says, or why it did not answer.
    pub(crate) async fn call<T, F>(
        &self,
        position: usize,
        patience: Duration,
        call: impl FnOnce(Channel) -> F,
    ) -> Result<T, Status>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let Some(PlacementDriver { address, channel }) = self.0.each.get(position) else {
            return Err(Status::failed_precondition("no placement driver is named"));
        };
        let answer = timeout(patience, call(channel.clone())).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
        let answer = answer.map_err(|status| {
            let details = status.details().to_vec().into();
            Status::with_details(status.code(), describe(&status, address), details)
        });
        answer.map(Response::into_inner)
    }

    /// The file that says who this store is, if there is one.
    pub(crate) fn token(&self) -> Option<&TokenFile> {
        self.0.token.as_ref()
    }

    /// A request that says who this store is.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        TokenFile::request(self.0.token.as_ref(), message)
    }
}

/// Whether a placement driver has refused this store's identity, or the lack of one. So it enforces rights.
pub(crate) fn refuses_identity(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unauthenticated | Code::PermissionDenied
    )
}

/// The failure in one line: what the placement driver said, or why it did not answer.
fn describe(status: &Status, pd_address: &str) -> String {
    match (status.code(), &*call_failure(status)) {
        (Code::Unimplemented, _) => format!("{pd_address} is no placement driver; see --pd"),
        (Code::Unauthenticated | Code::PermissionDenied, message) => {
            format!("{pd_address}: {message}; {IDENTITY_ADVICE}")
        }
        (code, "") => format!("{pd_address}: {code}"),
        (_, message) => format!("{pd_address}: {message}"),
    }
}

#[cfg(test)]
mod tests {
    use rdb_proto::findings::About;

    use super::*;

    #[test]
    fn a_refused_identity_says_what_to_do_and_other_failures_do_not() {
        let refused = Status::unauthenticated("no token");
        let told = describe(&refused, "pd:1");
        assert!(told.starts_with("pd:1: no token; "), "{told}");
        assert!(told.contains("--auth-token-file"), "{told}");
        assert_eq!(About::of(&told), About::Identity);
        assert!(refuses_identity(&refused));
        let away = Status::unavailable("away");
        assert_eq!(describe(&away, "pd:1"), "pd:1: away");
        assert!(!refuses_identity(&away));
    }

    #[tokio::test]
    async fn nobody_has_taken_a_store_in_until_one_has() {
        let addresses = ["a:1".to_owned(), "b:1".to_owned()];
        let drivers =
            PlacementDrivers::new(&addresses, Connector::default(), None).expect("addresses");
        let mut taken_in_by = drivers.taken_in_by();
        assert_eq!(*taken_in_by.borrow_and_update(), None);
        drivers.clone().note_taken_in(1);
        assert!(taken_in_by.has_changed().expect("the sender lives"));
        assert_eq!(*taken_in_by.borrow_and_update(), Some(1));
        drivers.note_taken_in(1);
        assert!(!taken_in_by.has_changed().expect("the sender lives"));
        assert_eq!((drivers.after(0), drivers.after(1)), (1, 0));
    }
}
