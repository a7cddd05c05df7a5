//! What TLS promises: who is let in, what each end says otherwise, and that certificates are replaced under load.

use std::error::Error;
use std::io;
use std::iter::successors;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use rdb_proto::kvrpc::kv_raw_client::KvRawClient;
use rdb_proto::kvrpc::{RawDeleteRequest, RawPutRequest};
use rdb_proto::transport::limits::MESSAGE_BYTES_MAX;
use rdb_proto::transport::tls::{ClientTls, ClientTlsOptions, Pem, ServerTls, ServerTlsOptions};
use rdb_proto::transport::{
    Connector, PORT_SPEAKS_PLAIN_TEXT, PORT_SPEAKS_TLS, Secured, ServeOptions, endpoint, wants_tls,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{
    ClientConfig, HandshakeKind, ProtocolVersion, RootCertStore, SupportedProtocolVersion,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::Channel;

use crate::certificates::{Ca, Files, HOSTS, Issued, Validity};
use crate::fixture::{HANG_GUARD, TestServer, get, guarded};
use crate::peer::{Peer, RAW_DELETE, RAW_GET, SHORT, framed, reset_reason};

/// The type of a record with an alert (RFC 8446, section 5.1).
const ALERT: u8 = 21;

/// The alert for a version of TLS that is not spoken (RFC 8446, section 6).
const PROTOCOL_VERSION: u8 = 70;

/// What a client of HTTP/2 sends first (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) fn server_tls(issued: &Issued, client_ca: Option<&Ca>) -> Arc<ServerTls> {
    let text = |pem: &str| Pem::Text(pem.as_bytes().to_vec());
    let tls = ServerTls::new(ServerTlsOptions {
        certificate: text(&issued.certificate),
        key: text(&issued.key),
        client_ca: client_ca.map(|ca| text(&ca.pem)),
    });
    Arc::new(tls.expect("it can be used"))
}

fn over(tls: Arc<ServerTls>) -> ServeOptions {
    ServeOptions {
        tls: Some(tls),
        ..ServeOptions::default()
    }
}

fn trusting(ca: &Ca) -> ClientTlsOptions {
    ClientTlsOptions::with_ca_pem(ca.pem.as_bytes())
}

pub(crate) fn presenting(ca: &Ca, issued: &Issued) -> ClientTls {
    let options = trusting(ca);
    let options = options.with_identity_pem(issued.certificate.as_bytes(), issued.key.as_bytes());
    client(options)
}

fn client(options: ClientTlsOptions) -> ClientTls {
    ClientTls::new(options).expect("it can be used")
}

/// A client whose connections are encrypted.
async fn raw(server: &TestServer, tls: &ClientTls) -> KvRawClient<Channel> {
    let endpoint = endpoint(&server.address, HANG_GUARD).expect("an address");
    let connecting = endpoint.connect_with_connector(tls.connector());
    let channel = guarded("a connection", connecting).await;
    KvRawClient::new(channel.expect("it lets the client in"))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

pub(crate) async fn connected(
    server: &TestServer,
    tls: &ClientTls,
) -> io::Result<Secured<TcpStream>> {
    let stream = TcpStream::connect(&server.address).await?;
    guarded("a handshake", tls.connect(&server.address, stream)).await
}

/// Why a client is not let in. With TLS 1.3 it learns of what the server refuses only from the first that it reads, after it has sent
/// something.
async fn refusal(server: &TestServer, tls: &ClientTls) -> String {
    let refused = async {
        let mut stream = connected(server, tls).await?;
        stream.write_all(PREFACE).await?;
        stream.flush().await?;
        guarded("an alert", stream.read_u8()).await
    };
    let refused = refused.await.expect_err("it is not let in");
    refused.to_string()
}

/// The certificate that a server presents.
async fn presented(server: &TestServer, tls: &ClientTls) -> Vec<u8> {
    match connected(server, tls).await.expect("it lets the client in") {
        Secured::Tls(stream) => {
            let (_, session) = stream.get_ref();
            let certificates = session
                .peer_certificates()
                .expect("the server presents one");
            certificates[0].to_vec()
        }
        Secured::Plain(_) => panic!("it is not encrypted"),
    }
}

#[tokio::test]
async fn calls_go_over_tls_and_handlers_know_whose_certificate_came_with_them() {
    let ca = Ca::new();
    let server = TestServer::start(over(server_tls(&ca.server(), Some(&ca)))).await;
    let ada = ca.issue(&[], "ada", Validity::Now);
    let mut client = raw(&server, &presenting(&ca, &ada)).await;
    let put = RawPutRequest {
        value: vec![0; MESSAGE_BYTES_MAX - 100].into(),
        ..RawPutRequest::default()
    };
    client.raw_put(put).await.expect("served");
    let subjects = server.subjects.lock().expect("no panic").clone();
    assert_eq!(subjects, [Some("CN=ada".to_owned())]);
    let length = MESSAGE_BYTES_MAX - 100;
    let got = client.raw_get(get(length)).await.expect("served");
    assert_eq!(
        got.into_inner().value.map(|value| value.len()),
        Some(length)
    );
    drop(client);
    server.all_is_given_back().await;
}

#[tokio::test]
async fn without_a_client_ca_any_client_that_trusts_the_server_is_let_in() {
    let ca = Ca::new();
    let server = TestServer::start(over(server_tls(&ca.server(), None))).await;
    let mut client = raw(&server, &client(trusting(&ca))).await;
    client
        .raw_put(RawPutRequest::default())
        .await
        .expect("served");
    let subjects = server.subjects.lock().expect("no panic").clone();
    assert_eq!(subjects, [None::<String>]);
}

#[tokio::test]
async fn a_client_says_why_it_does_not_trust_a_server() {
    let (ca, other) = (Ca::new(), Ca::new());
    for (issued, told) in [
        (other.server(), "no CA that is trusted here has signed it"),
        (
            ca.issue(&HOSTS, "server", Validity::UntilYesterday),
            "it has expired at ",
        ),
        (
            ca.issue(&["db.example"], "server", Validity::Now),
            "it is for db.example, and not for 127.0.0.1",
        ),
        (ca.own.clone(), "it is that of a CA, "),
    ] {
        let server = TestServer::start(over(server_tls(&issued, None))).await;
        let refusal = refusal(&server, &client(trusting(&ca))).await;
        let told = format!("the certificate of the server is refused: {told}");
        assert!(refusal.starts_with(&told), "{refusal}");
    }
}

#[tokio::test]
async fn a_client_says_why_a_server_does_not_let_it_in() {
    let (ca, other) = (Ca::new(), Ca::new());
    let server = TestServer::start(over(server_tls(&ca.server(), Some(&ca)))).await;
    let expired = ca.issue(&[], "ada", Validity::UntilYesterday);
    let foreign = other.issue(&[], "ada", Validity::Now);
    for (tls, told) in [
        (
            client(trusting(&ca)),
            "the server requires a certificate of this client",
        ),
        (
            presenting(&ca, &expired),
            "the server refuses the certificate of this client: it has expired",
        ),
        (
            presenting(&ca, &foreign),
            "the server refuses the certificate of this client: no CA that it trusts",
        ),
    ] {
        let refusal = refusal(&server, &tls).await;
        assert!(refusal.starts_with(told), "{refusal}");
        // What it sends before it hears of that is not served.
        let endpoint = endpoint(&server.address, HANG_GUARD).expect("an address");
        let channel = endpoint.connect_with_connector_lazy(tls.connector());
        let mut lazy = KvRawClient::new(channel);
        let put = lazy.raw_put(RawPutRequest::default());
        let put = guarded("an end", put).await;
        put.expect_err("it is not let in");
    }
    assert_eq!(server.puts.load(Ordering::SeqCst), 0);
}

#[cfg(feature = "process")]
#[tokio::test]
async fn a_handshake_that_fails_is_counted() {
    use rdb_proto::transport::status::{TransportMetrics, metrics_text};

    let ca = Ca::new();
    let options = over(server_tls(&ca.server(), Some(&ca)));
    let metrics = TransportMetrics::of(&options);
    let is_shown = |line: &str| {
        let metrics = metrics.clone();
        let text = metrics_text(move |exposition| metrics.write(exposition));
        let text = text.expect("a string takes all");
        text.lines().any(|shown| shown == line)
    };
    assert!(is_shown("flaredb_tls_handshakes_failed_total 0"));
    let server = TestServer::start(options).await;
    refusal(&server, &client(trusting(&ca))).await;
    let counted = || is_shown("flaredb_tls_handshakes_failed_total 1");
    crate::fixture::until("it is counted", counted).await;
}

/// What handshakes with `versions` are, one after the other, by a client that would resume what it has shaken hands for.
async fn handshakes(
    server: &TestServer,
    ca: &Ca,
    versions: &[&'static SupportedProtocolVersion],
) -> Vec<(Option<ProtocolVersion>, Option<HandshakeKind>)> {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(ca.pem.as_bytes());
    roots.add(ca.expect("PEM")).expect("a CA");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("they are spoken")
        .with_root_certificates(roots);
    let mut config = config.with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    let mut handshakes = Vec::new();
    for _ in 0..3 {
        let stream = TcpStream::connect(&server.address)
            .await
            .expect("it listens");
        let name = ServerName::try_from("localhost").expect("a name");
        let stream = connector.connect(name, stream).await;
        let stream = stream.expect("it shakes hands");
        let (_, session) = stream.get_ref();
        handshakes.push((session.protocol_version(), session.handshake_kind()));
        // A ticket would come before the answer.
        let mut peer = Peer::over(stream, 1 << 20).await;
        let call = peer.call(RAW_GET, framed(&get(10)), true).await;
        call.read().await.expect("served");
    }
    handshakes
}

#[tokio::test]
async fn tls_1_2_and_1_3_are_spoken_and_nothing_is_resumed() {
    let ca = Ca::new();
    let server = TestServer::start(over(server_tls(&ca.server(), None))).await;
    for (version, wanted) in [
        (&rustls::version::TLS12, ProtocolVersion::TLSv1_2),
        (&rustls::version::TLS13, ProtocolVersion::TLSv1_3),
    ] {
        let full = (Some(wanted), Some(HandshakeKind::Full));
        let handshakes = handshakes(&server, &ca, &[version]).await;
        assert_eq!(handshakes, [full; 3]);
    }
}

#[tokio::test]
async fn another_name_than_that_of_the_address_can_be_asked_for() {
    let ca = Ca::new();
    let issued = ca.issue(&["db.example"], "server", Validity::Now);
    let server = TestServer::start(over(server_tls(&issued, None))).await;
    let tls = client(trusting(&ca).with_server_name("db.example"));
    let mut client = raw(&server, &tls).await;
    client.raw_get(get(10)).await.expect("served");
}

#[tokio::test]
async fn tls_on_a_port_of_plain_text_is_told_so() {
    let server = TestServer::start(ServeOptions::default()).await;
    let refusal = refusal(&server, &client(trusting(&Ca::new()))).await;
    assert_eq!(refusal, PORT_SPEAKS_PLAIN_TEXT);
}

#[tokio::test]
async fn plain_text_on_a_port_of_tls_is_told_so() {
    let ca = Ca::new();
    let server = TestServer::start(over(server_tls(&ca.server(), None))).await;
    let mut peer = Peer::connect(&server, 1 << 20).await;
    let called = async {
        let call = peer.try_call(RAW_GET, framed(&get(10)), true).await?;
        call.read().await
    };
    let error = called
        .await
        .map(|answer| answer.message)
        .expect_err("refused");
    assert!(wants_tls(&error), "{error}");

    let answer = server.refusal_of_http_1().await;
    assert!(answer.contains(PORT_SPEAKS_TLS), "{answer}");
}

#[tokio::test]
async fn a_store_without_tls_is_told_so_by_a_port_of_tls_and_served_by_one_of_plain_text() {
    let ca = Ca::new();
    let server = TestServer::start(over(server_tls(&ca.server(), None))).await;
    let address = endpoint(&server.address, HANG_GUARD).expect("an address");
    let connecting = address.connect_with_connector(Connector::plain_text());
    let connected = guarded("an end", connecting).await;
    let error = connected.map(drop).expect_err("refused");
    let innermost = successors(Some(&error as &dyn Error), |&error| error.source()).last();
    let told = innermost.expect("it is there").to_string();
    let expected = format!("{PORT_SPEAKS_TLS}: give this store --tls-cert");
    assert!(told.starts_with(&expected), "{told}");

    let server = TestServer::start(ServeOptions::default()).await;
    let address = endpoint(&server.address, HANG_GUARD).expect("an address");
    let connecting = address.connect_with_connector(Connector::plain_text());
    let channel = guarded("a connection", connecting).await;
    let client = KvRawClient::new(channel.expect("it speaks plain text"));
    // More than a window.
    let mut client = client.max_decoding_message_size(MESSAGE_BYTES_MAX);
    let length = MESSAGE_BYTES_MAX - 100;
    let got = client.raw_get(get(length)).await.expect("served");
    let got = got.into_inner().value.map(|value| value.len());
    assert_eq!(got, Some(length));
    drop(client);
    server.all_is_given_back().await;
}

/// A hello of a client that speaks up to TLS 1.1, with one cipher suite and one extension, for which signatures it takes (RFC 4346,
/// section 7.4.1.2).
fn old_hello() -> Vec<u8> {
    let mut hello = vec![3, 2];
    hello.extend([7; 32]);
    // No session, one suite, no compression.
    hello.extend([0, 0, 2, 0xc0, 0x13, 1, 0]);
    hello.extend([0, 8, 0, 13, 0, 4, 0, 2, 4, 3]);
    let mut message = vec![1, 0, 0, hello.len() as u8];
    message.extend(hello);
    let mut record = vec![22, 3, 1, 0, message.len() as u8];
    record.extend(message);
    record
}

#[tokio::test]
async fn older_versions_and_garbage_are_refused_and_others_served() {
    let ca = Ca::new();
    let server = TestServer::start(over(server_tls(&ca.server(), None))).await;
    let mut answers = Vec::new();
    let garbage: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let cut = old_hello()[..20].to_vec();
    for sent in [old_hello(), garbage, vec![22; 1000], cut] {
        let mut stream = TcpStream::connect(&server.address)
            .await
            .expect("it listens");
        // The server may have closed before it has read all.
        let _ = stream.write_all(&sent).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = guarded("the end", stream.read_to_end(&mut answer)).await;
        answers.push(answer);
    }
    for answer in &answers {
        let is_alert = answer.first() == Some(&ALERT);
        assert!(answer.is_empty() || is_alert, "{answer:?}");
    }
    let alert = &answers[0];
    assert_eq!(alert.first(), Some(&ALERT), "{alert:?}");
    assert_eq!(alert.last(), Some(&PROTOCOL_VERSION), "{alert:?}");
    let mut client = raw(&server, &client(trusting(&ca))).await;
    client.raw_get(get(10)).await.expect("served");
}

#[tokio::test]
async fn a_handshake_that_stalls_ends_and_keeps_nobody_waiting() {
    let ca = Ca::new();
    let tls = server_tls(&ca.server(), None);
    for begun in [&[][..], &old_hello()[..20]] {
        let server = TestServer::start(ServeOptions {
            preface_timeout: SHORT,
            ..over(Arc::clone(&tls))
        })
        .await;
        let mut stalled = TcpStream::connect(&server.address)
            .await
            .expect("it listens");
        stalled.write_all(begun).await.expect("it listens");
        let mut nothing = Vec::new();
        let ended = guarded("it is closed", stalled.read_to_end(&mut nothing)).await;
        ended.expect("it closes");
    }
    // However long they may take, they hold places as others do that have sent nothing.
    let server = TestServer::start(ServeOptions {
        preface_timeout: HANG_GUARD,
        connections_max: 2,
        ..over(tls)
    })
    .await;
    let mut stalled = Vec::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect(&server.address)
            .await
            .expect("it listens");
        stream
            .write_all(&old_hello()[..20])
            .await
            .expect("it listens");
        stalled.push(stream);
    }
    let mut client = raw(&server, &client(trusting(&ca))).await;
    client.raw_get(get(10)).await.expect("served");
    // Nor does a drain wait for them.
    server.drain.cancel();
    let served = guarded("the drain ends", server.serving).await;
    served.expect("in good order");
}

#[tokio::test]
async fn who_has_said_nothing_yet_is_cut_off_for_the_next_one_that_may_be_a_store() {
    let ca = Ca::new();
    for tls in [None, Some(server_tls(&ca.server(), None))] {
        let is_encrypted = tls.is_some();
        let server = TestServer::start(ServeOptions {
            preface_timeout: 2 * HANG_GUARD,
            connections_max: 1,
            store_connections_max: 1,
            tls,
            ..ServeOptions::default()
        })
        .await;
        let socket = TcpStream::connect(&server.address)
            .await
            .expect("it listens");
        let trusting = client(trusting(&ca));
        let mut client = if is_encrypted {
            let secured = trusting.connect(&server.address, socket).await;
            Peer::over(secured.expect("it lets the client in"), 1 << 20).await
        } else {
            Peer::over(socket, 1 << 20).await
        };
        // Its call keeps the only place for clients.
        let _waits = client
            .call(RAW_DELETE, framed(&RawDeleteRequest::default()), true)
            .await;
        crate::fixture::until("it is in flight", || server.budget.bytes_taken() > 0).await;
        let connect = || TcpStream::connect(&server.address);
        let mut silent = connect().await.expect("it listens");
        let _next = connect().await.expect("it listens");
        let mut nothing = Vec::new();
        let ended = guarded("it is closed", silent.read_to_end(&mut nothing)).await;
        assert_eq!(ended.ok(), Some(0), "it is closed without a word");
    }
}

/// A server whose certificate is in files.
async fn of_files(
    directory: &Path,
    ca: &Ca,
    first: &Issued,
) -> (TestServer, Arc<ServerTls>, Files) {
    let files = Files::write(directory, first, ca);
    let tls = ServerTls::new(ServerTlsOptions {
        certificate: Pem::File(files.certificate.clone()),
        key: Pem::File(files.key.clone()),
        client_ca: None,
    });
    let tls = Arc::new(tls.expect("it can be used"));
    (TestServer::start(over(Arc::clone(&tls))).await, tls, files)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_replaced_under_load_without_a_failed_call() {
    const RELOADS: usize = 100;
    const CLIENTS: usize = 4;
    let ca = Ca::new();
    let issued = [ca.server(), ca.server()];
    let directory = TempDir::new().expect("the temporary directory can be written");
    let (server, tls, files) = of_files(directory.path(), &ca, &issued[0]).await;
    let server = Arc::new(server);
    let trusting = client(trusting(&ca));
    let is_over = Arc::<AtomicBool>::default();
    let connected = Arc::<AtomicUsize>::default();
    let mut callers = Vec::new();
    for _ in 0..CLIENTS {
        let (server, trusting) = (Arc::clone(&server), trusting.clone());
        let (is_over, connected) = (Arc::clone(&is_over), Arc::clone(&connected));
        callers.push(tokio::spawn(async move {
            // One connection stays, others come and go. It does not connect again by itself.
            let socket = self::connected(&server, &trusting).await;
            let mut old = Peer::over(socket.expect("it lets the client in"), 1 << 20).await;
            while !is_over.load(Ordering::Relaxed) {
                let mut new = raw(&server, &trusting).await;
                let call = old.call(RAW_GET, framed(&get(10)), true).await;
                call.read().await.expect("served");
                new.raw_get(get(100_000)).await.expect("served");
                connected.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    for reload in 1..=RELOADS {
        let before = connected.load(Ordering::Relaxed);
        files.replace(&issued[reload % 2]);
        assert_eq!(tls.reload(), Ok(true));
        let new = presented(&server, &trusting).await;
        assert_eq!(new, issued[reload % 2].der, "new connections get it");
        crate::fixture::until("others connect", || {
            connected.load(Ordering::Relaxed) > before || callers.iter().any(|c| c.is_finished())
        })
        .await;
    }
    is_over.store(true, Ordering::Relaxed);
    for caller in callers {
        guarded("a caller ends", caller)
            .await
            .expect("no call has failed");
    }
}

#[tokio::test]
async fn a_broken_file_keeps_the_certificate_that_was_read_before() {
    let ca = Ca::new();
    let (first, second) = (ca.server(), ca.server());
    let directory = TempDir::new().expect("the temporary directory can be written");
    let (server, tls, files) = of_files(directory.path(), &ca, &first).await;
    let trusting = client(trusting(&ca));
    assert_eq!(tls.reload(), Ok(false), "nothing has changed");

    std::fs::write(&files.certificate, "broken").expect("it can be written");
    let broken = tls.reload().expect_err("it is no certificate").to_string();
    assert!(broken.contains("there is no certificate in it"), "{broken}");
    std::fs::write(&files.certificate, &second.certificate).expect("it can be written");
    let torn = tls
        .reload()
        .expect_err("the key is of the other one")
        .to_string();
    assert!(torn.contains("it is not the key of"), "{torn}");
    std::fs::remove_file(&files.key).expect("it can be removed");
    let missing = tls.reload().expect_err("there is no key").to_string();
    assert!(missing.contains("it cannot be read"), "{missing}");
    assert_eq!(presented(&server, &trusting).await, first.der);

    files.replace(&second);
    assert_eq!(tls.reload(), Ok(true));
    assert_eq!(presented(&server, &trusting).await, second.der);
}

#[tokio::test]
async fn a_client_whose_ca_was_taken_out_is_not_let_in_any_more() {
    let (ca, next) = (Ca::new(), Ca::new());
    let directory = TempDir::new().expect("the temporary directory can be written");
    let files = Files::write(directory.path(), &ca.server(), &ca);
    std::fs::write(&files.ca, format!("{}{}", ca.pem, next.pem)).expect("it can be written");
    let tls = Arc::new(
        ServerTls::new(ServerTlsOptions {
            certificate: Pem::File(files.certificate.clone()),
            key: Pem::File(files.key.clone()),
            client_ca: Some(Pem::File(files.ca.clone())),
        })
        .expect("it can be used"),
    );
    let server = TestServer::start(over(Arc::clone(&tls))).await;
    let [old, new] = [&ca, &next].map(|of| presenting(&ca, &of.issue(&[], "ada", Validity::Now)));
    let mut open = raw(&server, &old).await;
    open.raw_get(get(10)).await.expect("served");

    std::fs::write(&files.ca, &next.pem).expect("it can be written");
    assert_eq!(tls.reload(), Ok(true));
    let refusal = refusal(&server, &old).await;
    assert!(refusal.contains("no CA that it trusts"), "{refusal}");
    let mut let_in = raw(&server, &new).await;
    let_in.raw_get(get(10)).await.expect("served");
}

#[tokio::test]
async fn a_client_reads_its_files_again_when_it_connects() {
    let (ca, next) = (Ca::new(), Ca::new());
    let directory = TempDir::new().expect("the temporary directory can be written");
    let files = Files::write(directory.path(), &ca.server(), &ca);
    let server = TestServer::start(over(server_tls(&next.server(), None))).await;
    let tls = client(ClientTlsOptions::with_ca_file(&files.ca));
    let told = refusal(&server, &tls).await;
    assert!(told.contains("no CA that is trusted here"), "{told}");
    // Both are trusted while certificates are replaced.
    let both = format!("{}{}", ca.pem, next.pem);
    std::fs::write(&files.ca, both).expect("it can be written");
    let mut client = raw(&server, &tls).await;
    client.raw_get(get(10)).await.expect("served");
    // What cannot be used is left alone.
    std::fs::write(&files.ca, "broken").expect("it can be written");
    let mut client = raw(&server, &tls).await;
    client.raw_get(get(10)).await.expect("served");
}

#[tokio::test]
async fn a_client_presents_the_certificate_that_its_file_has_when_it_connects() {
    let ca = Ca::new();
    let server = TestServer::start(over(server_tls(&ca.server(), Some(&ca)))).await;
    let [ada, bob] = ["ada", "bob"].map(|name| ca.issue(&[], name, Validity::Now));
    let directory = TempDir::new().expect("the temporary directory can be written");
    let files = Files::write(directory.path(), &ada, &ca);
    let options = ClientTlsOptions::with_ca_file(&files.ca);
    let tls = client(options.with_identity_files(&files.certificate, &files.key));
    let put = async |client: &mut KvRawClient<Channel>| {
        let put = client.raw_put(RawPutRequest::default()).await;
        put.expect("served");
    };
    let mut open = raw(&server, &tls).await;
    put(&mut open).await;
    files.replace(&bob);
    put(&mut raw(&server, &tls).await).await;
    put(&mut open).await;
    let subjects = server.subjects.lock().expect("no panic").clone();
    let of = |name: &str| Some(format!("CN={name}"));
    assert_eq!(subjects, [of("ada"), of("bob"), of("ada")]);
}

/// Far more in all than the buffers of the kernel and of TLS hold.
const UNREAD_CALLS: usize = 64;
const VALUE_BYTES: usize = 1 << 20;

#[tokio::test]
async fn a_peer_that_reads_no_answers_is_reset_and_one_that_reads_nothing_loses_its_connection() {
    let ca = Ca::new();
    let server = TestServer::start(ServeOptions {
        send_stall_timeout: SHORT,
        ..over(server_tls(&ca.server(), None))
    })
    .await;
    let trusting = client(trusting(&ca));
    let socket = connected(&server, &trusting)
        .await
        .expect("it lets the client in");
    let mut peer = Peer::over(socket, 1 << 10).await;
    let call = peer.call(RAW_GET, framed(&get(VALUE_BYTES)), true).await;
    let unread = call.unread().await.expect("an answer begins");
    assert!(reset_reason(unread).await.is_some(), "it is reset");
    server.all_is_given_back().await;

    let socket = connected(&server, &trusting)
        .await
        .expect("it lets the client in");
    let mut peer = Peer::over(socket, 1 << 30).await;
    let mut calls = Vec::new();
    for _ in 0..UNREAD_CALLS {
        calls.push(peer.call(RAW_GET, framed(&get(VALUE_BYTES)), true).await);
    }
    let first = calls.remove(0).unread().await;
    peer.deaf.cancel();
    drop(first);
    crate::fixture::until("answers wait", || {
        server.budget.bytes_taken() >= VALUE_BYTES
    })
    .await;
    server.all_is_given_back().await;
}

#[tokio::test]
async fn what_is_in_flight_is_answered_in_a_drain() {
    let ca = Ca::new();
    let server = TestServer::start(over(server_tls(&ca.server(), None))).await;
    let mut client = raw(&server, &client(trusting(&ca))).await;
    let got = client.raw_get(get(10)).await.expect("served");
    assert_eq!(got.into_inner().value, Some(Bytes::from(vec![b'v'; 10])));
    let deleting =
        tokio::spawn(async move { client.raw_delete(RawDeleteRequest::default()).await });
    crate::fixture::until("it is in flight", || server.budget.bytes_taken() > 0).await;
    server.drain.cancel();
    server.deletes.notify_one();
    let deleted = guarded("an answer", deleting).await.expect("no panic");
    deleted.expect("answered");
    let served = guarded("the drain ends", server.serving).await;
    served.expect("in good order");
}
