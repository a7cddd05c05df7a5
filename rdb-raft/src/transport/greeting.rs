//! What both ends of a stream have to agree on.

use rdb_proto::raftpb::{Envelope, Hello};
use tonic::Status;

use super::starts::{NotMet, Starts};
use crate::timing::Timing;

/// Which store this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreIdentity {
    /// Its cluster.
    pub cluster_id: u64,
    /// Its id in the cluster.
    pub store_id: u64,
}

impl StoreIdentity {
    /// What a start of this store says to another store first.
    pub(super) fn greeting(
        &self,
        to_store: u64,
        timing: &Timing,
        start: u64,
        starts: &Starts,
    ) -> Envelope {
        let hello = Hello {
            cluster_id: self.cluster_id,
            from_store: self.store_id,
            to_store,
            election_timeout_max_ms: timing.election_timeout_max_ms,
            start,
            met_start: starts.met(to_store),
        };
        Envelope {
            hello: Some(hello),
            items: Vec::new(),
        }
    }

    /// Checks what another store says first, and meets its start.
    ///
    /// # Errors
    ///
    /// A status that names what differs.
    pub(super) async fn check(
        &self,
        first: Envelope,
        timing: &Timing,
        starts: &Starts,
    ) -> Result<Hello, Status> {
        let Some(hello) = first.hello.filter(|_| first.items.is_empty()) else {
            let cause = "the stream does not begin with a hello";
            return Err(Status::invalid_argument(cause));
        };
        let own_timeout_ms = timing.election_timeout_max_ms;
        let names = [
            ("cluster", hello.cluster_id, self.cluster_id),
            ("store", hello.to_store, self.store_id),
            (
                "longest election timeout",
                hello.election_timeout_max_ms,
                own_timeout_ms,
            ),
        ];
        for (name, expected, own) in names {
            if expected != own {
                let cause = format!("the {name} here is {own}, and {expected} is expected");
                return Err(Status::failed_precondition(cause));
            }
        }
        let own = starts.own();
        if hello.met_start > own {
            starts.note_outdated(hello.from_store, own);
            let cause = "this is an older start of the store than the one that is expected";
            return Err(Status::failed_precondition(cause));
        }
        match starts.meet(hello.from_store, hello.start).await {
            Ok(()) => Ok(hello),
            Err(error @ NotMet::Older { .. }) => Err(Status::already_exists(error.to_string())),
            Err(error @ NotMet::TooMany) => Err(Status::resource_exhausted(error.to_string())),
        }
    }
}
