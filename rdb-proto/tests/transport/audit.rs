//! What the audit log has of calls, over real sockets.

use std::fs;
use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;

use futures::channel::mpsc;
use rdb_proto::adminpb::region_admin_client::RegionAdminClient;
use rdb_proto::adminpb::region_admin_server::{RegionAdmin, RegionAdminServer};
use rdb_proto::adminpb::{
    BeginCheckRequest, BeginCheckResponse, GetChecksumRequest, GetChecksumResponse,
    TransferLeaderRequest, TransferLeaderResponse,
};
use rdb_proto::audit::{AuditLog, AuditOptions, AuditWriter};
use rdb_proto::auth::{Guard, Token};
use rdb_proto::authpb::Role;
use rdb_proto::error::Fault;
use rdb_proto::errorpb::Fate;
use rdb_proto::kvrpc::BatchRequest;
use rdb_proto::kvrpc::kv_batch_client::KvBatchClient;
use rdb_proto::kvrpc::kv_raw_client::KvRawClient;
use rdb_proto::spans::Origin;
use rdb_proto::transport::{Call, ServeOptions, Services, endpoint};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::Notify;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::fixture::{HANG_GUARD, TestServer, get, guarded, until};
use crate::rights::{rights, user};

/// A server's audit log.
struct Audited {
    log: AuditLog,
    writer: AuditWriter,
    directory: TempDir,
}

impl Audited {
    fn start() -> Self {
        let directory = TempDir::new().expect("it can be written");
        let origin = Origin {
            program: "test",
            version: "1.2.3",
            instance: "here".to_owned(),
        };
        let options = AuditOptions {
            origin,
            file_bytes_max: 1 << 20,
            notes_writes: false,
        };
        let opened = AuditLog::open(directory.path().join("log"), options);
        let (log, writer) = opened.expect("it can be written");
        Self {
            log,
            writer,
            directory,
        }
    }

    fn options(&self, guard: Option<&Arc<Guard>>) -> ServeOptions {
        ServeOptions {
            audit: Some(self.log.clone()),
            guard: guard.cloned(),
            ..ServeOptions::default()
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    fn text(&self) -> String {
        fs::read_to_string(self.path()).expect("it is there")
    }

    /// The lines about calls, when all is written.
    fn end(self) -> Vec<Value> {
        let path = self.path();
        self.writer.end();
        let text = fs::read_to_string(path).expect("it is there");
        let lines = text.lines();
        let lines = lines.map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        lines.filter(|line| line.get("call").is_some()).collect()
    }
}

/// What a line has under these names.
fn told<const COUNT: usize>(line: &Value, names: [&str; COUNT]) -> [String; COUNT] {
    names.map(|name| match line.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => String::new(),
    })
}

/// Answers each of its methods in another way.
#[derive(Default)]
struct Admin {
    /// Told of a call that it does not answer.
    unanswered: Arc<Notify>,
}

#[tonic::async_trait]
impl RegionAdmin for Admin {
    async fn begin_check(
        &self,
        request: Request<BeginCheckRequest>,
    ) -> Result<Response<BeginCheckResponse>, Status> {
        Call::of(&request).note_asked(|| "region 7\n".to_owned());
        Ok(Response::new(BeginCheckResponse::default()))
    }

    async fn get_checksum(
        &self,
        _: Request<GetChecksumRequest>,
    ) -> Result<Response<GetChecksumResponse>, Status> {
        self.unanswered.notify_one();
        pending().await
    }

    async fn transfer_leader(
        &self,
        _: Request<TransferLeaderRequest>,
    ) -> Result<Response<TransferLeaderResponse>, Status> {
        let fault = Fault::new(Code::FailedPrecondition, "it is \"dead\"");
        Err(fault.with_fate(Fate::NotApplied).into())
    }
}

async fn connect(server: &TestServer) -> Channel {
    let endpoint = endpoint(&server.address, HANG_GUARD).expect("an address");
    endpoint.connect().await.expect("it listens")
}

#[tokio::test]
async fn the_end_of_each_administrative_call_is_noted_and_of_no_other() {
    let audited = Audited::start();
    let served = Admin::default();
    let unanswered = Arc::clone(&served.unanswered);
    let services = Services::default().add_service(RegionAdminServer::new(served));
    let server = TestServer::start_with(audited.options(None), services).await;
    let channel = connect(&server).await;
    let mut admin = RegionAdminClient::new(channel.clone());

    let begun = admin.begin_check(BeginCheckRequest::default()).await;
    begun.expect("served");
    let refused = admin.transfer_leader(TransferLeaderRequest::default());
    refused.await.expect_err("refused");
    let mut health = HealthClient::new(channel);
    let checked = health.check(HealthCheckRequest::default()).await;
    checked.expect("served");
    let mut given_up = admin.clone();
    let given_up = tokio::spawn(async move {
        let request = GetChecksumRequest::default();
        given_up.get_checksum(request).await
    });
    guarded("it is served", unanswered.notified()).await;
    given_up.abort();
    let is_noted = || audited.text().contains("GetChecksum");
    until("it is noted", is_noted).await;

    let lines = audited.end();
    let names = ["call", "asked", "outcome", "cause"];
    let lines: Vec<_> = lines.iter().map(|line| told(line, names)).collect();
    let service = "adminpb.RegionAdmin";
    let expected = [
        ["BeginCheck", "region 7\n", "ok", ""],
        ["TransferLeader", "", "refused", "it is \"dead\""],
        ["GetChecksum", "", "given_up", ""],
    ];
    let expected = expected.map(|[method, asked, outcome, cause]| {
        let call = format!("{service}/{method}");
        [call, asked.into(), outcome.into(), cause.into()]
    });
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn each_refusal_is_noted_with_who_was_refused_and_what_is_allowed_is_not() {
    let audited = Audited::start();
    let token = Token::random();
    let with_roles = |version, roles: &[Role]| rights(version, vec![user("ada", &[&token], roles)]);
    let guard = Guard::without_limit(with_roles(1, &[Role::Reader]));
    let guard = Arc::new(guard);
    let server = TestServer::start(audited.options(Some(&guard))).await;
    let channel = connect(&server).await;

    let mut raw = KvRawClient::new(channel.clone());
    raw.raw_get(token.request(get(1))).await.expect("allowed");
    raw.raw_get(get(1)).await.expect_err("nobody");
    let stranger = Token::random();
    raw.raw_get(stranger.request(get(1)))
        .await
        .expect_err("nobody");
    let mut admin = RegionAdminClient::new(channel.clone());
    let check = token.request(BeginCheckRequest::default());
    admin.begin_check(check).await.expect_err("no admin");

    let (messages, sent) = mpsc::unbounded();
    let send = || messages.unbounded_send(BatchRequest::default().into());
    send().expect("it is open");
    let opened = KvBatchClient::new(channel).batch(token.request(sent)).await;
    let mut answers = opened.expect("allowed").into_inner();
    let answer = guarded("an answer", answers.message()).await;
    answer.expect("allowed").expect("it goes on");
    guard.set(Some(with_roles(2, &[])));
    send().expect("it is open");
    let refused = guarded("the end", answers.message()).await;
    refused.expect_err("it has lost the right");

    let lines = audited.end();
    let text: String = lines.iter().map(Value::to_string).collect();
    for secret in [&token, &stranger] {
        let secret = secret.to_string();
        assert!(!text.contains(&secret["flaredb_".len()..]), "{text}");
    }
    let names = ["call", "outcome", "user"];
    let lines_told: Vec<_> = lines.iter().map(|line| told(line, names)).collect();
    let expected = [
        ["kvrpc.KvRaw/RawGet", "unauthenticated", ""],
        ["kvrpc.KvRaw/RawGet", "unauthenticated", ""],
        ["adminpb.RegionAdmin/BeginCheck", "denied", "ada"],
        ["kvrpc.KvBatch/Batch", "denied", "ada"],
    ];
    assert_eq!(lines_told, expected.map(|told| told.map(str::to_owned)));
    for line in &lines {
        let [peer, cause] = told(line, ["peer", "cause"]);
        assert!(peer.starts_with("127.0.0.1:"), "{line}");
        assert!(!cause.is_empty(), "{line}");
    }
}
