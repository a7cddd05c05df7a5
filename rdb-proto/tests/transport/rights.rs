//! Whoever may not call is refused before anything else happens, and an open stream ends when its right does.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use rdb_proto::auth::{Guard, Rights, Token};
use rdb_proto::authpb::{Grant, Role, User};
use rdb_proto::batch::Messages;
use rdb_proto::error::details;
use rdb_proto::errorpb::Fate;
use rdb_proto::pdpb::GetTsoRequest;
use rdb_proto::transport::limits::{STORE_STREAMS_MAX, TSO_STREAMS_MAX, WATCHES_MAX};
use rdb_proto::transport::{Access, Call, ServeOptions, Services, accesses};
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::request::Builder;
use tonic::codegen::http::{Request, Response};
use tonic::metadata::MetadataMap;
use tonic::server::NamedService;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;

use crate::certificates::{Ca, Validity};
use crate::fixture::{HANG_GUARD, TestServer, get, guarded, until};
use crate::peer::{BATCH, Peer, RAW_DELETE, RAW_GET, REFLECTION, Stream, begun, framed, head};
use crate::tls::{connected, presenting, server_tls};

const WINDOW_BYTES: u32 = 1 << 20;
const TSO: &str = "/pdpb.Pd/Tso";
const BULK: &str = "/raftpb.RaftPeer/Bulk";
const AUTH_CHECK: &str = "/authpb.Auth/Check";
const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";
const HEALTH_WATCH: &str = "/grpc.health.v1.Health/Watch";
const RAW_PUT: &str = "/kvrpc.KvRaw/RawPut";

/// What was met behind the transport, of all streams.
#[derive(Clone, Default)]
struct Met {
    messages: Arc<AtomicUsize>,
    /// Names of the callers that were let in. A header with a token would be among them.
    callers: Arc<Mutex<Vec<Option<String>>>>,
}

impl Met {
    async fn messages(&self, count: usize) {
        let met = || self.messages.load(Ordering::SeqCst) == count;
        until("the messages are met", met).await;
    }

    /// Counts the messages of a stream, and answers when it ends, with what it ended with.
    async fn read(self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let metadata = MetadataMap::from_headers(parts.headers);
        let request = tonic::Request::from_parts(metadata, parts.extensions, ());
        let call = Call::of(&request);
        let token = request.metadata().get("authorization");
        let shown = token.map(|value| format!("{value:?}"));
        let name = shown.or_else(|| call.caller().name().as_deref().map(str::to_owned));
        self.callers.lock().expect("no panic").push(name);
        let mut messages = Messages::<GetTsoRequest>::new(body);
        while let Some(message) = messages.next().await {
            match message {
                Ok(_) => self.messages.fetch_add(1, Ordering::SeqCst),
                Err(status) => return status.into_http(),
            };
        }
        Status::ok("").into_http()
    }
}

/// Makes a type a service that reads its streams.
macro_rules! reader {
    ($reader:ident, $name:literal) => {
        #[derive(Clone)]
        struct $reader(Met);

        impl NamedService for $reader {
            const NAME: &'static str = $name;
        }

        impl Service<Request<Body>> for $reader {
            type Response = Response<Body>;
            type Error = Infallible;
            type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

            fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
                Poll::Ready(Ok(()))
            }

            fn call(&mut self, request: Request<Body>) -> Self::Future {
                let reading = self.0.clone().read(request);
                Box::pin(async { Ok(reading.await) })
            }
        }
    };
}

reader!(Timestamps, "pdpb.Pd");
reader!(Peers, "raftpb.RaftPeer");

/// Who calls in these tests.
struct Users {
    reader: Token,
    writer: Token,
    admin: Token,
    store: Token,
    /// It has been granted nothing.
    newcomer: Token,
    /// Nobody has it.
    stranger: Token,
}

impl Users {
    fn new() -> Self {
        Self {
            reader: Token::random(),
            writer: Token::random(),
            admin: Token::random(),
            store: Token::random(),
            newcomer: Token::random(),
            stranger: Token::random(),
        }
    }

    fn rights(&self) -> Arc<Rights> {
        rights(
            1,
            vec![
                user("admin", &[&self.admin], &[Role::Admin]),
                user("newcomer", &[&self.newcomer], &[]),
                user("reader", &[&self.reader], &[Role::Reader]),
                user("store", &[&self.store], &[Role::Store]),
                user("writer", &[&self.writer], &[Role::Writer]),
            ],
        )
    }
}

/// A user with these roles over everything.
pub(crate) fn user(name: &str, tokens: &[&Token], roles: &[Role]) -> User {
    let grants = roles.iter().map(|&role| Grant {
        role: role.into(),
        ..Grant::default()
    });
    let hashes = tokens.iter().map(|token| token.hash().to_vec().into());
    User {
        name: name.to_owned(),
        token_hashes: hashes.collect(),
        subject: String::new(),
        grants: grants.collect(),
    }
}

pub(crate) fn rights(version: u64, users: Vec<User>) -> Arc<Rights> {
    let message = rdb_proto::authpb::Rights { version, users };
    Arc::new(Rights::of(&message).expect("good rights"))
}

fn guarded_by(guard: &Arc<Guard>) -> ServeOptions {
    ServeOptions {
        guard: Some(Arc::clone(guard)),
        call_timeout: HANG_GUARD,
        ..ServeOptions::default()
    }
}

/// A server of streams that has only them, health and reflection.
async fn start(guard: &Arc<Guard>) -> (TestServer, Met) {
    let met = Met::default();
    let services = Services::default()
        .add_service(Timestamps(met.clone()))
        .add_service(Peers(met.clone()));
    let server = TestServer::start_with(guarded_by(guard), services).await;
    (server, met)
}

async fn peer(server: &TestServer) -> Peer {
    Peer::connect(server, WINDOW_BYTES).await
}

fn with(token: &Token, path: &str) -> Builder {
    head(path).header("authorization", token.header_value())
}

fn message() -> Bytes {
    framed(&GetTsoRequest { count: Some(1) })
}

/// How a call ends that has sent all of its request.
async fn ended(peer: &mut Peer, head: Builder) -> Status {
    let called = peer.begin(head, begun(0, &[]), true).await;
    status(called.expect("open")).await
}

async fn status(call: Stream) -> Status {
    let answer = call.read().await.expect("an answer, not a reset");
    let status = Status::from_header_map(&answer.trailers).expect("a status");
    if is_refusal(status.code()) {
        assert!(answer.message.is_empty(), "no answer about regions");
        let details = details(&status).expect("details");
        assert_eq!(details.fate(), Fate::NotApplied);
        assert_eq!(details.cause, status.message());
    }
    status
}

fn is_refusal(code: Code) -> bool {
    let codes = [
        Code::Unauthenticated,
        Code::PermissionDenied,
        Code::Unavailable,
    ];
    codes.contains(&code)
}

async fn open(peer: &mut Peer, head: Builder) -> Stream {
    let begun = peer.begin(head, message(), false).await;
    begun.expect("open")
}

fn send(stream: &mut Stream) {
    let sent = stream.sending.send_data(message(), false);
    sent.expect("open");
}

/// A server without the services: whoever is let in learns that there are none.
#[tokio::test]
async fn each_method_is_for_whom_its_row_says() {
    let users = Users::new();
    let guard = Arc::new(Guard::without_limit(users.rights()));
    let server = TestServer::start_with(guarded_by(&guard), Services::default()).await;
    let mut peer = peer(&server).await;
    let rows = accesses().map(|(service, method, access)| (format!("/{service}/{method}"), access));
    let unknown = ("/no.Service/Method".to_owned(), Access::SignedIn);
    for (path, access) in rows.chain([unknown]) {
        if path.ends_with("/Watch") {
            // It goes on.
            continue;
        }
        for (caller, token) in [
            ("nobody", None),
            ("a stranger", Some(&users.stranger)),
            ("newcomer", Some(&users.newcomer)),
            ("reader", Some(&users.reader)),
            ("writer", Some(&users.writer)),
            ("store", Some(&users.store)),
            ("admin", Some(&users.admin)),
        ] {
            let expected = match (access, caller) {
                (Access::Open | Access::ByHandler, _) => None,
                (_, "nobody" | "a stranger") => Some(Code::Unauthenticated),
                (_, "admin") => None,
                (Access::Store, "store") => None,
                (Access::Store | Access::Admin, _) => Some(Code::PermissionDenied),
                (Access::SignedIn | Access::Keys(..) | Access::Commands, "newcomer") => {
                    Some(Code::PermissionDenied)
                }
                (Access::SignedIn | Access::Keys(..) | Access::Commands, _) => None,
            };
            let head = token.map_or_else(|| head(&path), |token| with(token, &path));
            let status = ended(&mut peer, head).await;
            let refused = is_refusal(status.code()).then_some(status.code());
            assert_eq!(refused, expected, "{caller}, {path}: {status:?}");
        }
    }
    drop(peer);
    server.all_is_given_back().await;
}

reader!(Foreign, "foreign.Service");

#[tokio::test]
async fn a_service_without_a_row_is_for_nobody_once_rights_are_enforced() {
    const FOREIGN: &str = "/foreign.Service/Method";
    let users = Users::new();
    let guard = Arc::new(Guard::off());
    let met = Met::default();
    let services = Services::default().add_service(Foreign(met.clone()));
    let server = TestServer::start_with(guarded_by(&guard), services).await;
    let mut peer = peer(&server).await;
    let status = ended(&mut peer, head(FOREIGN)).await;
    assert_eq!(status.code(), Code::Ok, "rights are not enforced");
    guard.set(Some(users.rights()));
    for token in [&users.reader, &users.writer, &users.store, &users.admin] {
        let status = ended(&mut peer, with(token, FOREIGN)).await;
        assert_eq!(status.code(), Code::Unimplemented);
        assert_eq!(
            details(&status).map(|told| told.fate()),
            Some(Fate::NotApplied)
        );
    }
    let callers = met.callers.lock().expect("no panic").len();
    assert_eq!(callers, 1, "the service has met nobody else");
    drop(peer);
    server.all_is_given_back().await;
}

#[tokio::test]
async fn only_one_bearer_token_is_a_token() {
    let users = Users::new();
    let guard = Arc::new(Guard::without_limit(users.rights()));
    let (server, _) = start(&guard).await;
    let mut peer = peer(&server).await;
    let token = &users.reader;
    let two = with(token, RAW_GET).header("authorization", token.header_value());
    let mut refused = vec![two];
    for value in [
        String::new(),
        token.to_string(),
        format!("Basic {token}"),
        format!("Bearer {token}, Bearer {token}"),
        format!("Bearer {}", token.to_string().to_uppercase()),
        format!("Bearer {}", token.to_string().replace("flaredb_", "")),
    ] {
        refused.push(head(RAW_GET).header("authorization", value));
    }
    for head in refused {
        let status = ended(&mut peer, head).await;
        assert_eq!(status.code(), Code::Unauthenticated);
        let secret = &token.to_string()["flaredb_".len()..];
        let shown = format!("{status:?}").to_lowercase();
        assert!(!shown.contains(secret), "{shown}");
    }
    let lower_case = format!("bearer {token}");
    let head = head(RAW_GET).header("authorization", lower_case);
    let status = ended(&mut peer, head).await;
    assert_eq!(status.code(), Code::Unimplemented, "it is let in");
}

/// Whom a server takes for whom, by token and certificate.
#[tokio::test]
async fn a_certificate_is_a_user_unless_there_is_a_token() {
    let users = Users::new();
    let ca = Ca::new();
    let ada = User {
        subject: "CN=ada".to_owned(),
        ..user("ada", &[], &[Role::Reader])
    };
    let reader = user("reader", &[&users.reader], &[Role::Reader]);
    let guard = Arc::new(Guard::without_limit(rights(1, vec![ada, reader])));
    let met = Met::default();
    let options = ServeOptions {
        tls: Some(server_tls(&ca.server(), Some(&ca))),
        ..guarded_by(&guard)
    };
    let services = Services::default().add_service(Timestamps(met.clone()));
    let server = TestServer::start_with(options, services).await;
    let bearer = |token: &Token| format!("Bearer {token}");
    let (reader, stranger) = (bearer(&users.reader), bearer(&users.stranger));
    for (name, values, expected) in [
        ("ada", &[][..], Ok("ada")),
        ("ada", &[&*reader], Ok("reader")),
        ("ada", &[&*stranger], Err(Code::Unauthenticated)),
        ("ada", &["nonsense"], Err(Code::Unauthenticated)),
        ("ada", &[""], Err(Code::Unauthenticated)),
        ("ada", &[&*reader, &*reader], Err(Code::Unauthenticated)),
        ("eve", &[], Err(Code::Unauthenticated)),
        ("eve", &[&*reader], Ok("reader")),
    ] {
        let tls = presenting(&ca, &ca.issue(&[], name, Validity::Now));
        let stream = connected(&server, &tls).await.expect("it is let in");
        let mut peer = Peer::over(stream, WINDOW_BYTES).await;
        let with = |head: Builder, value: &&str| head.header("authorization", *value);
        let head = values.iter().fold(head(TSO), with);
        let status = ended(&mut peer, head).await;
        let callers = std::mem::take(&mut *met.callers.lock().expect("no panic"));
        match expected {
            Ok(caller) => assert_eq!(callers, [Some(caller.to_owned())]),
            Err(code) => assert_eq!((status.code(), callers.len()), (code, 0)),
        }
    }
}

#[tokio::test]
async fn an_open_stream_ends_with_its_next_message_when_its_right_is_gone() {
    let [one, other] = [Token::random(), Token::random()];
    for path in [TSO, BULK, BATCH] {
        let role = if path == BULK {
            Role::Store
        } else {
            Role::Reader
        };
        let with_role = |version| rights(version, vec![user("ada", &[&one], &[role])]);
        for (what, now, expected) in [
            (
                "nothing is granted any more",
                Some(rights(3, vec![user("ada", &[&one], &[])])),
                Code::PermissionDenied,
            ),
            (
                "the token is another one",
                Some(rights(3, vec![user("ada", &[&other], &[role])])),
                Code::Unauthenticated,
            ),
            (
                "the user is removed",
                Some(rights(3, vec![])),
                Code::Unauthenticated,
            ),
            ("there are no rights any more", None, Code::Unavailable),
        ] {
            let guard = Arc::new(Guard::without_limit(with_role(1)));
            let met = Met::default();
            let services = Services::default()
                .add_service(Timestamps(met.clone()))
                .add_service(Peers(met.clone()))
                .add_service(Commands(met.clone()));
            let server = TestServer::start_with(guarded_by(&guard), services).await;
            let mut peer = peer(&server).await;
            let mut stream = open(&mut peer, with(&one, path)).await;
            met.messages(1).await;
            guard.set(Some(with_role(2)));
            send(&mut stream);
            met.messages(2).await;
            match now {
                Some(now) => guard.set(Some(now)),
                None => guard.refuse(),
            }
            send(&mut stream);
            let status = status(stream).await;
            assert_eq!(status.code(), expected, "{path}, {what}");
            met.messages(2).await;
            drop(peer);
            server.all_is_given_back().await;
        }
    }
}

reader!(Commands, "kvrpc.KvBatch");

#[tokio::test]
async fn a_stream_that_was_open_before_rights_were_enforced_is_held_to_them() {
    let users = Users::new();
    let guard = Arc::new(Guard::off());
    let (server, met) = start(&guard).await;
    let mut peer = peer(&server).await;
    let mut reader = open(&mut peer, with(&users.reader, TSO)).await;
    let mut nobody = open(&mut peer, head(TSO)).await;
    met.messages(2).await;
    guard.set(Some(users.rights()));
    send(&mut reader);
    met.messages(3).await;
    send(&mut nobody);
    assert_eq!(status(nobody).await.code(), Code::Unauthenticated);
    met.messages(3).await;
    let callers = met.callers.lock().expect("no panic").clone();
    assert_eq!(callers, [None, None], "tokens go no further");
}

#[tokio::test]
async fn a_refused_stream_takes_no_place_of_another_one() {
    let users = Users::new();
    let guard = Arc::new(Guard::without_limit(users.rights()));
    let (server, met) = start(&guard).await;
    let mut peer = peer(&server).await;
    let mut held = Vec::new();
    for (path, token, count_max) in [
        (TSO, &users.reader, TSO_STREAMS_MAX),
        (BULK, &users.store, STORE_STREAMS_MAX),
    ] {
        for _ in 0..count_max {
            held.push(open(&mut peer, with(token, path)).await);
            met.messages(held.len()).await;
        }
        // It is refused for who it is, though there is no place.
        let refused = open(&mut peer, with(&users.newcomer, path)).await;
        assert_eq!(status(refused).await.code(), Code::PermissionDenied);
        let full = open(&mut peer, with(token, path)).await;
        assert_eq!(status(full).await.code(), Code::ResourceExhausted);
    }
    drop((held, peer));
    server.all_is_given_back().await;
}

#[tokio::test]
async fn a_refused_call_is_never_served() {
    let users = Users::new();
    let guard = Arc::new(Guard::without_limit(users.rights()));
    let server = TestServer::start(guarded_by(&guard)).await;
    let mut peer = peer(&server).await;
    // A deletion that is served waits for its turn.
    let status = ended(&mut peer, head(RAW_DELETE)).await;
    assert_eq!(status.code(), Code::Unauthenticated);
    let unread = begun(1 << 20, &[0; 1000]);
    let refused = peer.begin(head(RAW_GET), unread, false).await;
    let status = self::status(refused.expect("open")).await;
    assert_eq!(status.code(), Code::Unauthenticated);
    let refusals = guard.refusals();
    assert_eq!((refusals.unauthenticated(), refusals.denied()), (2, 0));
    drop(peer);
    server.all_is_given_back().await;
}

#[tokio::test]
async fn without_recent_rights_only_what_is_open_is_served() {
    let users = Users::new();
    let stale = Guard::without_limit(users.rights()).with_stale_max(Duration::ZERO);
    let stale = Arc::new(stale);
    until("the rights are old", || {
        stale.age().is_some_and(|age| age > Duration::ZERO)
    })
    .await;
    for guard in [Arc::new(Guard::refusing()), stale] {
        let (server, _) = start(&guard).await;
        let mut peer = peer(&server).await;
        for path in [RAW_GET, BATCH, TSO, BULK, REFLECTION] {
            let status = ended(&mut peer, with(&users.admin, path)).await;
            assert_eq!(status.code(), Code::Unavailable, "{path}");
        }
        for path in [HEALTH_CHECK, AUTH_CHECK] {
            let status = ended(&mut peer, head(path)).await;
            assert!(!is_refusal(status.code()), "{path}: {status:?}");
        }
        // Whoever it is: that may have changed since.
        for head in [with(&users.stranger, RAW_GET), head(RAW_GET)] {
            let status = ended(&mut peer, head).await;
            assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        }
        let refusals = guard.refusals();
        assert_eq!((refusals.unavailable(), refusals.unauthenticated()), (7, 0));
    }
}

/// A request of which the end comes when its caller has lost the right is refused, however long it was let in before.
#[tokio::test]
async fn a_call_whose_right_is_gone_when_its_request_arrives_is_not_served() {
    let users = Users::new();
    let without = |version| rights(version, vec![user("writer", &[&users.writer], &[])]);
    let put = framed(&get(10));
    for (from, to, expected) in [
        (Some(users.rights()), Some(users.rights()), None),
        (
            Some(users.rights()),
            Some(without(3)),
            Some(Code::PermissionDenied),
        ),
        (
            Some(users.rights()),
            Some(rights(3, vec![])),
            Some(Code::Unauthenticated),
        ),
        (None, Some(rights(3, vec![])), Some(Code::Unauthenticated)),
        (Some(users.rights()), None, None),
    ] {
        let guard = Arc::new(Guard::off());
        guard.set(from);
        let server = TestServer::start(guarded_by(&guard)).await;
        let mut peer = peer(&server).await;
        let head = with(&users.writer, RAW_PUT);
        let begun = peer.begin(head, put.slice(..6), false).await;
        let mut call = begun.expect("open");
        until("the call is let in", || server.budget.bytes_taken() > 0).await;
        guard.set(to);
        // The server may have refused what came before.
        let _ = call.sending.send_data(put.slice(6..), true);
        let answer = call.read().await.expect("an answer, not a reset");
        let status = Status::from_header_map(&answer.trailers).expect("a status");
        let refused = (status.code() != Code::Ok).then_some(status.code());
        assert_eq!(refused, expected, "{status:?}");
        if expected.is_some() {
            assert!(answer.message.is_empty(), "no answer about regions");
            let details = details(&status).expect("details");
            assert_eq!(details.fate(), Fate::NotApplied);
        }
        let served = server.puts.load(Ordering::SeqCst);
        assert_eq!(served, usize::from(expected.is_none()));
        drop(peer);
        server.all_is_given_back().await;
    }
}

/// However many calls it makes that anybody may make, or nobody lets it make.
#[tokio::test]
async fn a_stranger_that_calls_makes_room_for_a_client() {
    let users = Users::new();
    for path in [RAW_GET, HEALTH_CHECK] {
        let guard = Arc::new(Guard::without_limit(users.rights()));
        let options = ServeOptions {
            connections_max: 2,
            ..guarded_by(&guard)
        };
        let server = TestServer::start_with(options, Services::default()).await;
        let [mut client, mut stranger] = [peer(&server).await, peer(&server).await];
        for (peer, head) in [
            (&mut client, with(&users.reader, RAW_GET)),
            (&mut stranger, head(path)),
        ] {
            ended(peer, head).await;
        }
        let mut newcomer = peer(&server).await;
        let served = ended(&mut newcomer, with(&users.reader, RAW_GET)).await;
        assert_eq!(served.code(), Code::Unimplemented, "it is let in");
        let ended = guarded("the stranger has to go", stranger.connection).await;
        ended.expect("no panic").expect("in good order");
        assert!(!client.connection.is_finished());
    }
}

#[tokio::test]
async fn a_connection_has_a_few_watches_and_no_large_request_that_anybody_may_make() {
    let users = Users::new();
    let guard = Arc::new(Guard::without_limit(users.rights()));
    let (server, _) = start(&guard).await;
    let mut peer = peer(&server).await;
    let watch = framed(&HealthCheckRequest::default());
    for path in [HEALTH_CHECK, HEALTH_WATCH] {
        let call = peer.call(path, begun(100_000, &[]), false).await;
        let answer = guarded("an answer", call.answer).await.expect("an answer");
        let status = Status::from_header_map(answer.headers()).expect("a status");
        assert_eq!(status.code(), Code::OutOfRange, "{path}");
    }
    until("the watch is over", || server.budget.bytes_taken() == 0).await;
    let mut held = Vec::new();
    for _ in 0..WATCHES_MAX {
        let watch = peer.call(HEALTH_WATCH, watch.clone(), true).await;
        held.push(watch.unread().await.expect("it goes on"));
    }
    let full = peer.call(HEALTH_WATCH, watch.clone(), true).await;
    let full = guarded("an answer", full.answer).await.expect("an answer");
    let status = Status::from_header_map(full.headers()).expect("it does not go on");
    assert_eq!(status.code(), Code::ResourceExhausted);
    drop((held, peer));
    server.all_is_given_back().await;
}

#[tokio::test]
async fn while_rights_are_not_enforced_whatever_callers_show_is_not_looked_at() {
    let guard = Arc::new(Guard::off());
    let (server, met) = start(&guard).await;
    let mut peer = peer(&server).await;
    let nobody = Token::random;
    for head in [
        head(RAW_GET),
        with(&nobody(), RAW_GET),
        head(RAW_GET).header("authorization", "nonsense"),
        head(TSO).header("authorization", "nonsense"),
        head("/pdpb.Pd/GetRegion").header("authorization", "nonsense"),
        with(&nobody(), "/authpb.Auth/GetUsers"),
        with(&nobody(), AUTH_CHECK),
    ] {
        let status = ended(&mut peer, head).await;
        assert!(!is_refusal(status.code()), "{status:?}");
    }
    let refusals = guard.refusals();
    let counted = [
        refusals.unauthenticated(),
        refusals.denied(),
        refusals.unavailable(),
    ];
    assert_eq!(counted, [0; 3]);
    let callers = met.callers.lock().expect("no panic").clone();
    assert_eq!(callers, [None, None], "tokens go no further");
}
