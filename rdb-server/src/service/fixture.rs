//! A server in the test's process. It never gives up on a client that does not read.

use std::sync::Arc;
use std::time::Duration;

use rdb_proto::auth::{Caller, Guard, Rights, Token};
use rdb_proto::authpb;
use rdb_proto::batch::KvBatchServer;
use rdb_proto::kvrpc::kv_cas_server::KvCasServer;
use rdb_proto::kvrpc::kv_raw_server::KvRawServer;
use rdb_proto::metapb::Region;
use rdb_proto::transport::{ByteBudget, ServeOptions, Services, endpoint, serve};
use rdb_storage::{Role, Storage, StorageOptions};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Request;
use tonic::transport::Channel;

use super::{BatchService, CasService, RawService};
use crate::region::fixture::Led;
use crate::router::{Membership, Router};

const HANG_GUARD: Duration = Duration::from_secs(300);

pub(super) struct Served {
    pub(super) storage: Storage,
    pub(super) budget: ByteBudget,
    address: String,
    _led: Led,
    _directory: tempfile::TempDir,
}

impl Served {
    /// Serves one region to everybody, by calls and streams.
    pub(super) async fn start() -> Self {
        Self::start_with(None).await
    }

    /// The same to whom `guard` lets in.
    pub(super) async fn start_with(guard: Option<Arc<Guard>>) -> Self {
        let directory = tempfile::tempdir().expect("the temporary directory can be written");
        let options = StorageOptions::new(Role::Server);
        let storage = Storage::open(directory.path(), options).expect("a new directory");
        let led = Led::begin(&storage, Region::default()).await;
        let region = led.handle(Region::default());
        let router = Router::new(CancellationToken::new());
        router.set(Membership::new(1, 1, vec![region]));

        let budget = ByteBudget::new(64 << 20);
        let options = ServeOptions {
            bytes_in_flight: budget.clone(),
            send_stall_timeout: 10 * HANG_GUARD,
            guard,
            ..ServeOptions::default()
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("bound").to_string();
        let services = Services::default()
            .add_service(KvRawServer::new(RawService::new(router.clone())))
            .add_service(KvCasServer::new(CasService::new(router.clone())))
            .add_service(KvBatchServer::new(BatchService::new(router)));
        tokio::spawn(serve(listener, services, options, CancellationToken::new()));
        Self {
            storage,
            budget,
            address,
            _led: led,
            _directory: directory,
        }
    }

    pub(super) async fn connect(&self) -> Channel {
        let endpoint = endpoint(&self.address, HANG_GUARD).expect("an address");
        endpoint.connect().await.expect("it listens")
    }

    /// A client that takes no byte of an answer.
    pub(super) async fn connect_unread(&self) -> Channel {
        let endpoint = endpoint(&self.address, HANG_GUARD).expect("an address");
        let endpoint = endpoint.initial_stream_window_size(0);
        endpoint.connect().await.expect("it listens")
    }
}

/// The user `ada`, and the guard of a server that knows nobody else.
pub(super) struct User {
    pub(super) guard: Arc<Guard>,
    token: Token,
}

impl User {
    /// Writes and reads the keys with this prefix, in both keyspaces.
    pub(super) fn writer(prefix: &'static str) -> Self {
        Self::granted(authpb::Role::Writer, prefix)
    }

    /// Only reads them.
    pub(super) fn reader(prefix: &'static str) -> Self {
        Self::granted(authpb::Role::Reader, prefix)
    }

    fn granted(role: authpb::Role, prefix: &'static str) -> Self {
        let user = Self {
            guard: Arc::new(Guard::off()),
            token: Token::random(),
        };
        user.grant(1, role, prefix);
        user
    }

    /// Takes the rights away, and gives others.
    pub(super) fn grant_elsewhere(&self) {
        self.grant(2, authpb::Role::Writer, "elsewhere/");
    }

    fn grant(&self, version: u64, role: authpb::Role, prefix: &'static str) {
        let grant = authpb::Grant {
            role: role.into(),
            keyspace: authpb::Keyspace::All.into(),
            prefix: prefix.into(),
        };
        let user = authpb::User {
            name: "ada".to_owned(),
            token_hashes: vec![self.token.hash().to_vec().into()],
            subject: String::new(),
            grants: vec![grant],
        };
        let users = vec![user];
        let rights = Rights::of(&authpb::Rights { version, users }).expect("valid");
        self.guard.set(Some(Arc::new(rights)));
    }

    /// The user as handlers see it.
    pub(super) fn caller(&self) -> Caller {
        Caller::with_token(Arc::clone(&self.guard), &self.token)
    }

    /// A request of the user.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        self.token.request(message)
    }
}

/// Waits until `holds` is so.
pub(super) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    guarded(what, waiting).await;
}

pub(super) async fn guarded<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(HANG_GUARD, future)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"))
}
