//! Certificates that are forged, damaged, or somebody else's.

use std::sync::Arc;

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, date_time_ymd,
};
use rdb_proto::authpb::Role;
use rustls::client::ResolvesClientCert;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, SignatureScheme, version};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Status};

use super::Fuzz;
use crate::administrator::over_all;
use crate::cluster::{Enforcing, Setup};
use crate::harness::guarded;

/// What a peer presents: certificates from its own on, and a key.
#[derive(Clone)]
struct Presented {
    chain: Vec<Vec<u8>>,
    key: Vec<u8>,
}

/// A CA, and one that it has signed, which signs what clients have.
struct Authorities {
    root_pem: String,
    intermediate: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authorities {
    fn make() -> Self {
        let key = KeyPair::generate().expect("a key");
        let params = of_authority("root");
        let root = params.self_signed(&key).expect("a certificate");
        let roots = Issuer::new(params, key);
        let key = KeyPair::generate().expect("a key");
        let params = of_authority("intermediate");
        let intermediate = params.signed_by(&key, &roots).expect("a certificate");
        Self {
            root_pem: root.pem(),
            intermediate: intermediate.der().to_vec(),
            issuer: Issuer::new(params, key),
        }
    }

    /// A certificate of the intermediate CA, with what leads to the root.
    fn issue(&self, params: &CertificateParams) -> Presented {
        let mut presented = signed(params, &self.issuer);
        presented.chain.push(self.intermediate.clone());
        presented
    }
}

fn of_authority(name: &str) -> CertificateParams {
    let mut params = named(&[(DnType::CommonName, name)]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.extended_key_usages = Vec::new();
    params
}

/// Of a client with these names, in their order in the certificate.
fn named(names: &[(DnType, &str)]) -> CertificateParams {
    let mut distinguished_name = DistinguishedName::new();
    for (kind, name) in names {
        distinguished_name.push(kind.clone(), *name);
    }
    let mut params = CertificateParams::new(Vec::new()).expect("no hosts");
    params.distinguished_name = distinguished_name;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn signed(params: &CertificateParams, issuer: &Issuer<'_, KeyPair>) -> Presented {
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, issuer).expect("a certificate");
    Presented {
        chain: vec![certificate.der().to_vec()],
        key: key.serialize_der(),
    }
}

/// A client that presents whatever it is told to.
#[derive(Debug)]
struct Presents(Option<Arc<CertifiedKey>>);

impl ResolvesClientCert for Presents {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.clone()
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

type NoAnswer = Box<dyn std::error::Error + Send + Sync>;

/// Where an admin is let in.
struct Door {
    address: String,
    roots: Arc<RootCertStore>,
}

impl Door {
    /// The status of a call of a peer that presents this. An error says that there was no answer.
    ///
    /// Over h2 itself: hyper leaves a request unanswered that was queued while the task of its connection ended.
    async fn try_with(&self, presented: Presented, is_tls_12: bool) -> Result<Code, NoAnswer> {
        let connector = TlsConnector::from(Arc::new(self.config(presented, is_tls_12)));
        let connect = async {
            let stream = TcpStream::connect(&self.address).await?;
            let host = ServerName::try_from("127.0.0.1").expect("an address");
            connector.connect(host, stream).await
        };
        let stream = guarded("a connection", connect).await?;
        let (requests, connection) = guarded("a greeting", h2::client::handshake(stream)).await?;
        let connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let answer = guarded("an answer", get_users(requests)).await;
        drop(connection);
        answer
    }

    fn config(&self, presented: Presented, is_tls_12: bool) -> ClientConfig {
        let versions = if is_tls_12 {
            &[&version::TLS12]
        } else {
            &[&version::TLS13]
        };
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .expect("the provider knows it");
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(presented.key));
        let key = ring::sign::any_supported_type(&key).expect("a key");
        let chain: Vec<_> = presented
            .chain
            .into_iter()
            .map(CertificateDer::from)
            .collect();
        let certified = (!chain.is_empty()).then(|| Arc::new(CertifiedKey::new(chain, key)));
        let mut config = builder
            .with_root_certificates(Arc::clone(&self.roots))
            .with_client_cert_resolver(Arc::new(Presents(certified)));
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }

    async fn lets_in(&self, presented: &Presented) {
        for is_tls_12 in [false, true] {
            let answer = self.try_with(presented.clone(), is_tls_12).await;
            assert_eq!(answer.ok(), Some(Code::Ok), "it is hers");
        }
    }
}

/// A call that only admins may make.
async fn get_users(requests: SendRequest<Bytes>) -> Result<Code, NoAnswer> {
    const EMPTY_MESSAGE: Bytes = Bytes::from_static(&[0; 5]);
    let request = Request::post("https://pd/authpb.Auth/GetUsers")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(());
    let mut requests = requests.ready().await?;
    let (answer, mut message) = requests.send_request(request.expect("it is valid"), false)?;
    message.send_data(EMPTY_MESSAGE, true)?;
    let (head, mut body) = answer.await?.into_parts();
    let status = match Status::from_header_map(&head.headers) {
        Some(status) => Some(status),
        None => {
            while let Some(data) = body.data().await {
                body.flow_control().release_capacity(data?.len())?;
            }
            let trailers = body.trailers().await?;
            trailers.and_then(|trailers| Status::from_header_map(&trailers))
        }
    };
    Ok(status.expect("gRPC has a status").code())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_certificate_but_the_right_one_lets_anybody_in() {
    let authorities = Authorities::make();
    let mut cluster = Enforcing::start_as(Setup {
        stores: 1,
        is_encrypted: true,
        also_trusts: authorities.root_pem.clone(),
        ..Setup::default()
    })
    .await;
    let admin = &cluster.admin;
    for (user, subject) in [("ada", "CN=ada"), ("eve", "CN=ada,O=Example")] {
        admin.add_certificate(user, subject).await;
        admin.grant(user, &over_all(Role::Admin)).await;
    }
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(cluster.ca().pem.as_bytes()).expect("PEM");
    roots.add(ca).expect("a CA");
    let door = Door {
        address: cluster.pd.address(),
        roots: Arc::new(roots),
    };
    let adas = authorities.issue(&named(&[(DnType::CommonName, "ada")]));
    let eves = authorities.issue(&named(&[
        (DnType::OrganizationName, "Example"),
        (DnType::CommonName, "ada"),
    ]));
    door.lets_in(&adas).await;
    door.lets_in(&eves).await;

    let mut fuzz = Fuzz::of("certificates");
    let others = Authorities::make();
    while fuzz.goes_on() {
        let (what, presented) = forged(&mut fuzz, &authorities, &others, &adas);
        let is_tls_12 = fuzz.rng.bool();
        let answer = door.try_with(presented.clone(), is_tls_12).await;
        let told = || {
            let chain = presented
                .chain
                .iter()
                .map(|der| hex(der))
                .collect::<Vec<_>>();
            format!("{}: {what}: {answer:?} to {chain:?}", fuzz.try_number())
        };
        match &answer {
            // Others may have certificates, and are nobody's users.
            Ok(code) if what == OTHER_NAME => {
                assert_eq!(*code, Code::Unauthenticated, "{}", told());
            }
            Ok(_) => panic!("{}", told()),
            Err(_) => assert_ne!(what, OTHER_NAME, "{}", told()),
        }
    }
    door.lets_in(&adas).await;
    cluster.assert_sound();
}

/// What is a good certificate of somebody who is no user.
const OTHER_NAME: &str = "another name";

fn forged(
    fuzz: &mut Fuzz,
    authorities: &Authorities,
    others: &Authorities,
    adas: &Presented,
) -> (&'static str, Presented) {
    let ada = named(&[(DnType::CommonName, "ada")]);
    let with_chain = |chain| Presented {
        chain,
        key: adas.key.clone(),
    };
    let [own, between] = [&adas.chain[0], &adas.chain[1]];
    match fuzz.rng.u8(..14) {
        0..=3 => {
            let damaged = fuzz.mutate(own);
            ("a damaged one", with_chain(vec![damaged, between.clone()]))
        }
        4 => {
            let damaged = fuzz.mutate(between);
            ("a damaged CA", with_chain(vec![own.clone(), damaged]))
        }
        5 => {
            let key = KeyPair::generate().expect("a key");
            let own = ada.self_signed(&key).expect("a certificate");
            let presented = Presented {
                chain: vec![own.der().to_vec()],
                key: key.serialize_der(),
            };
            ("signed by itself", presented)
        }
        6 => ("of other CAs", others.issue(&ada)),
        7 => {
            // The right CA's certificate is no use to whoever has not its key.
            let mut presented = others.issue(&ada);
            presented.chain[1] = between.clone();
            ("of another CA, with the right one's certificate", presented)
        }
        8 => {
            let mut expired = ada;
            expired.not_before = date_time_ymd(2020, 1, 1);
            expired.not_after = date_time_ymd(2021, 1, 1);
            ("expired", authorities.issue(&expired))
        }
        9 => {
            let mut presented = others.issue(&ada);
            presented.chain = adas.chain.clone();
            ("the right one with another key", presented)
        }
        10 => {
            // Her key signs, though she is no CA.
            let key = KeyPair::try_from(&*adas.key);
            let issuer = Issuer::new(ada.clone(), key.expect("her key"));
            let mut presented = signed(&ada, &issuer);
            presented.chain.extend(adas.chain.iter().cloned());
            ("signed by who is no CA", presented)
        }
        11 => {
            let chain = match fuzz.rng.u8(..4) {
                0 => Vec::new(),
                1 => vec![own.clone()],
                2 => vec![between.clone(), own.clone()],
                _ => vec![fuzz.bytes(600)],
            };
            ("a part of a chain", with_chain(chain))
        }
        _ => (OTHER_NAME, authorities.issue(&other_name(fuzz))),
    }
}

/// Names that look like those of users.
fn other_name(fuzz: &mut Fuzz) -> CertificateParams {
    const NAMES: [&str; 12] = [
        "ADA",
        " ada",
        "ada ",
        "ada\u{0}",
        "ada,O=Example",
        "ada\\,O=Example",
        "ada+O=Example",
        "CN=ada",
        "CN=ada,O=Example",
        "#0c03616461",
        "\u{430}da",
        "ada\"",
    ];
    let name = NAMES[fuzz.rng.usize(..NAMES.len())];
    match fuzz.rng.u8(..4) {
        0 => named(&[(DnType::CommonName, name)]),
        1 => named(&[(DnType::OrganizationName, "ada")]),
        2 => named(&[
            (DnType::CommonName, "ada"),
            (DnType::OrganizationName, "Example"),
        ]),
        _ => named(&[
            (DnType::OrganizationName, "Example"),
            (DnType::OrganizationalUnitName, name),
            (DnType::CommonName, "ada"),
        ]),
    }
}

fn hex(der: &[u8]) -> String {
    der.iter().map(|byte| format!("{byte:02x}")).collect()
}
