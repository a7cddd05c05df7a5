//! `rdbctl cert dev`: a CA and certificates for trying things out, and for tests.
//!
//! `issued` makes them; here they are written, each to a file that did not exist.

mod issued;

use std::fmt;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use rdb_client::Tls;
use rdb_proto::transport::tls::{Pem, ServerTls, ServerTlsOptions};
use serde::Serialize;

use crate::failure::Failure;
use crate::output::Output;
use issued::{Authority, Issued, client_of, hosts_of};

/// Names of files in the directory.
const CA: &str = "ca.pem";
const CA_KEY: &str = "ca.key";
const SERVER: &str = "server.pem";
const SERVER_KEY: &str = "server.key";
const CLIENT: &str = "client.pem";
const CLIENT_KEY: &str = "client.key";

/// The common name of clients, unless another is named.
const CLIENT_NAME: &str = "client";

/// Names that a server of a development cluster always has.
const LOCAL: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// What the owner can do with a key, and nobody else can.
const KEY_MODE: u32 = 0o600;

const AFTER_HELP: &str = "\
Writes to DIR, which is made if it is missing:

  ca.pem, ca.key          a CA; whoever can read its key can make certificates
  server.pem, server.key  for localhost, 127.0.0.1, ::1 and each --host; servers
                          present it to clients, and to each other
  client.pem, client.key  for clients, and for rdbctl

With --ca-dir and without --host, server.pem is for the names in the server.pem there.
Without --client, client.pem is for the name in the client.pem there, if it has one.

Keys can be read by you alone. No file is overwritten. The CA is valid for ten
years, all else for one. For production use a CA whose key is on no server.

Examples:
  rdbctl cert dev --dir tls
  rdbctl cert dev --dir tls --host db1.example.net --host 10.0.0.7
  rdbctl cert dev --dir renewed --ca-dir tls    # signed by the CA in tls";

#[derive(Debug, Subcommand)]
pub(crate) enum CertCommand {
    /// Make a CA for development, a certificate for servers and one for clients
    #[command(after_help = AFTER_HELP)]
    Dev(DevArguments),
}

#[derive(Debug, Args)]
pub(crate) struct DevArguments {
    /// Where the files are written
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Another name or IP address that clients connect to servers by; can be given several times. Without any, --ca-dir keeps those of its server.pem
    #[arg(long = "host", value_name = "NAME")]
    hosts: Vec<String>,
    /// The common name in the certificate for clients. Without it, --ca-dir keeps that of its client.pem, and otherwise it is "client"
    #[arg(long, value_name = "NAME")]
    client: Option<String>,
    /// Sign with the CA of this directory, which was made before, in place of a new one
    #[arg(long, value_name = "DIR")]
    ca_dir: Option<PathBuf>,
}

/// Where the certificates of a directory are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Certificates {
    pub(crate) ca: PathBuf,
    pub(crate) server_cert: PathBuf,
    pub(crate) server_key: PathBuf,
    pub(crate) client_cert: PathBuf,
    pub(crate) client_key: PathBuf,
}

impl Certificates {
    pub(crate) fn of(directory: &Path) -> Self {
        Self {
            ca: directory.join(CA),
            server_cert: directory.join(SERVER),
            server_key: directory.join(SERVER_KEY),
            client_cert: directory.join(CLIENT),
            client_key: directory.join(CLIENT_KEY),
        }
    }

    /// Makes them for servers on this machine, unless they are there.
    pub(crate) fn of_this_machine(directory: &Path) -> Result<Self, Failure> {
        let certificates = Self::of(directory);
        let files = certificates.files();
        // If some are missing, it says which one is in the way.
        if !files.iter().all(|file| file.exists()) {
            make(directory, &[], None, None)?;
        }
        Ok(certificates)
    }

    fn files(&self) -> [&Path; 5] {
        [
            &self.ca,
            &self.server_cert,
            &self.server_key,
            &self.client_cert,
            &self.client_key,
        ]
    }

    /// How a client connects with them.
    pub(crate) fn tls(&self) -> Tls {
        Tls::with_ca_file(&self.ca).with_identity_files(&self.client_cert, &self.client_key)
    }

    /// The flags of a server that serves with them, to clients that have one, too.
    pub(crate) fn server_flags(&self) -> [String; 6] {
        let path = |path: &Path| path.display().to_string();
        [
            "--tls-cert".to_owned(),
            path(&self.server_cert),
            "--tls-key".to_owned(),
            path(&self.server_key),
            "--tls-client-ca".to_owned(),
            path(&self.ca),
        ]
    }
}

/// The line that gives them to `rdbctl`.
impl fmt::Display for Certificates {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "export RDBCTL_CA={} RDBCTL_CERT={} RDBCTL_KEY={}",
            quoted(&self.ca),
            quoted(&self.client_cert),
            quoted(&self.client_key)
        )
    }
}

/// As it is typed in a shell.
fn quoted(path: &Path) -> String {
    let path = path.display().to_string();
    shlex::try_quote(&path).map_or(path.clone(), |quoted| quoted.into_owned())
}

#[derive(Debug, Serialize)]
struct Made {
    directory: PathBuf,
    /// Where the CA is that was made before, if they are signed by one.
    #[serde(skip)]
    ca_directory: Option<PathBuf>,
    /// Whether hosts were named. With a CA that was made before they are those of another server, and otherwise the certificates renew others.
    #[serde(skip)]
    names_hosts: bool,
    hosts: Vec<String>,
    /// The common name of the client.
    client: String,
    #[serde(flatten)]
    certificates: Certificates,
}

impl fmt::Display for Made {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            directory,
            ca_directory,
            names_hosts,
            hosts,
            client,
            certificates,
        } = self;
        write!(
            formatter,
            "The certificates in {} are for servers at {}, and for the client {client}.\n\n",
            directory.display(),
            hosts.join(", ")
        )?;
        if let Some(ca_directory) = ca_directory {
            let (new, old) = (quoted(directory), quoted(ca_directory));
            if *names_hosts {
                return write!(
                    formatter,
                    "Copy server.pem, server.key and ca.pem to that server. If a new client needs them, copy
client.pem, client.key and ca.pem to it. Then remove all keys here:

  rm -r {new}"
                );
            }
            return write!(
                formatter,
                "Put them in the place of the old ones, where those are beside the CA:

  mv {new}/server.pem {new}/server.key {old}/    # on servers
  mv {new}/client.pem {new}/client.key {old}/    # on clients
  rm -r {new}

Servers read theirs again within seconds, clients whenever they connect. Clients and
other stores then refuse a server that they connect to by a name that is not above."
            );
        }
        let flags = certificates.server_flags().join(" ");
        write!(
            formatter,
            "Start servers with them:

  rdb-pd {flags}
  rdb-server {flags}

and give them to clients:

  {certificates}
  rdbctl health"
        )
    }
}

pub(crate) fn run(command: CertCommand, output: &mut Output<'_>) -> Result<(), Failure> {
    let CertCommand::Dev(arguments) = command;
    let DevArguments {
        dir,
        hosts,
        client,
        ca_dir,
    } = arguments;
    let made = make(&dir, &hosts, client, ca_dir.as_deref())?;
    output.event(&made)
}

/// Makes all files.
fn make(
    directory: &Path,
    more_hosts: &[String],
    client: Option<String>,
    ca_directory: Option<&Path>,
) -> Result<Made, Failure> {
    let files =
        [CA, CA_KEY, SERVER, SERVER_KEY, CLIENT, CLIENT_KEY].map(|file| directory.join(file));
    if let Some(found) = files.iter().find(|file| file.exists()) {
        let found = found.display();
        return Err(Failure::failed(format!(
            "{found} exists, and nothing is overwritten; name another --dir, or move it away"
        )));
    }
    let authority = match ca_directory {
        Some(of) => authority_in(of)?,
        None => Authority::new().map_err(Failure::failed)?,
    };
    let hosts = match ca_directory {
        Some(of) if more_hosts.is_empty() => hosts_in(of)?,
        _ => {
            let hosts = LOCAL.into_iter().map(str::to_owned);
            hosts.chain(more_hosts.iter().cloned()).collect()
        }
    };
    let client = match (client, ca_directory) {
        (Some(client), _) => client,
        (None, Some(of)) if of.join(CLIENT).exists() => client_in(of)?,
        (None, _) => CLIENT_NAME.to_owned(),
    };
    let server = authority.server(&hosts).map_err(Failure::usage)?;
    if let Some(of) = ca_directory {
        check_belongs(of, &authority, &server)?;
    }
    let client_issued = authority.client(&client).map_err(Failure::usage)?;
    let [ca, ca_key, server_cert, server_key, client_cert, client_key] = files;
    let cannot = |error: io::Error| Failure::failed(format!("{}: {error}", directory.display()));
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(directory).map_err(cannot)?;
    write(&ca, &authority.certificate)?;
    if ca_directory.is_none() {
        write_key(&ca_key, &authority.key)?;
    }
    for (issued, certificate_file, key_file) in [
        (server, server_cert, server_key),
        (client_issued, client_cert, client_key),
    ] {
        let Issued { certificate, key } = issued;
        write_key(&key_file, &key)?;
        write(&certificate_file, &certificate)?;
    }
    Ok(Made {
        directory: directory.to_owned(),
        ca_directory: ca_directory.map(Path::to_owned),
        names_hosts: !more_hosts.is_empty(),
        hosts,
        client,
        certificates: Certificates::of(directory),
    })
}

/// For which hosts the certificate of servers is that is there. Servers would not notice that a new one is for fewer, but clients refuse it.
fn hosts_in(directory: &Path) -> Result<Vec<String>, Failure> {
    let otherwise = "name the hosts of the servers with --host";
    found_in(&directory.join(SERVER), hosts_of, otherwise)
}

/// Whose the certificate of clients is that is there. A new one of another name would be another user's.
fn client_in(directory: &Path) -> Result<String, Failure> {
    let otherwise = "name the client with --client; rights are given to a subject, so with another one it is another user";
    found_in(&directory.join(CLIENT), client_of, otherwise)
}

/// What `facts_of` finds in a certificate that was made before. If it finds nothing, the error says what to do `otherwise`.
fn found_in<T>(
    file: &Path,
    facts_of: fn(&str) -> Result<T, String>,
    otherwise: &str,
) -> Result<T, Failure> {
    let unknown = |cause: String| Failure::failed(format!("{cause}; {otherwise}"));
    let text = read(file).map_err(|failure| unknown(failure.to_string()))?;
    facts_of(&text).map_err(|cause| unknown(format!("{}: {cause}", file.display())))
}

fn authority_in(directory: &Path) -> Result<Authority, Failure> {
    let key = directory.join(CA_KEY);
    let authority = Authority::of_key(&read(&key)?, read(&directory.join(CA))?);
    authority.map_err(|error| Failure::failed(format!("{}: {error}", key.display())))
}

/// Refuses a key of another CA than those that are trusted: servers with certificates of it would be refused by all.
fn check_belongs(directory: &Path, authority: &Authority, issued: &Issued) -> Result<(), Failure> {
    let text = |pem: &str| Pem::Text(pem.as_bytes().to_vec());
    let checked = ServerTls::new(ServerTlsOptions {
        certificate: text(&issued.certificate),
        key: text(&issued.key),
        client_ca: Some(text(&authority.certificate)),
    });
    let (key, ca) = (directory.join(CA_KEY), directory.join(CA));
    let (key, ca) = (key.display(), ca.display());
    let checked = checked.map_err(|error| Failure::failed(format!("{ca}: {error}")))?;
    match checked.unfit_as_client() {
        Some(_) => Err(Failure::failed(format!(
            "{key} is not the key of a CA in {ca} that `rdbctl cert dev` has made, so nobody would accept what it signs"
        ))),
        None => Ok(()),
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path)
        .map_err(|error| Failure::failed(format!("{}: {error}", path.display())))
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    write_new(path, text, OpenOptions::new().mode(0o644))
}

fn write_key(path: &Path, text: &str) -> Result<(), Failure> {
    write_new(path, text, OpenOptions::new().mode(KEY_MODE))
}

fn write_new(path: &Path, text: &str, options: &mut OpenOptions) -> Result<(), Failure> {
    let file = options.write(true).create_new(true).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| Failure::failed(format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rdb_proto::transport::tls::ClientTls;

    use super::*;

    fn ada() -> Option<String> {
        Some("ada".to_owned())
    }

    #[test]
    fn what_is_made_can_be_used_and_keys_are_the_owners_alone() {
        let temporary = tempfile::tempdir().expect("the temporary directory can be written");
        let directory = temporary.path().join("a/tls");
        let hosts = ["db1.example.net".to_owned(), "10.0.0.7".to_owned()];
        let made = make(&directory, &hosts, ada(), None).expect("it can be made");
        assert_eq!(made.hosts.len(), LOCAL.len() + 2);
        let certificates = Certificates::of(&directory);
        ClientTls::new(certificates.tls()).expect("it can be used");
        for key in [CA_KEY, SERVER_KEY, CLIENT_KEY] {
            let mode = fs::metadata(directory.join(key)).expect("it is there");
            assert_eq!(mode.permissions().mode() & 0o777, KEY_MODE, "{key}");
        }
    }

    #[test]
    fn nothing_is_overwritten() {
        let temporary = tempfile::tempdir().expect("the temporary directory can be written");
        let directory = temporary.path();
        make(directory, &[], ada(), None).expect("it can be made");
        let before = read(&directory.join(CA)).expect("it was made");
        let refused = make(directory, &[], ada(), None).expect_err("it is there");
        assert!(refused.to_string().contains("exists"), "{refused}");
        assert_eq!(read(&directory.join(CA)).expect("it is there"), before);
    }

    #[test]
    fn a_ca_that_was_made_before_signs_again() {
        let temporary = tempfile::tempdir().expect("the temporary directory can be written");
        let (first, second) = (temporary.path().join("1"), temporary.path().join("2"));
        make(&first, &[], ada(), None).expect("it can be made");
        make(&second, &[], ada(), Some(&first)).expect("it can be made");
        let ca = |directory: &Path| read(&directory.join(CA)).expect("it was made");
        assert_eq!(ca(&first), ca(&second));
        assert!(!second.join(CA_KEY).exists(), "the key stays where it is");
    }

    #[test]
    fn a_renewed_certificate_is_for_the_names_of_the_one_before_unless_others_are_named() {
        let temporary = tempfile::tempdir().expect("the temporary directory can be written");
        let [tls, renewed, moved, lost] =
            ["tls", "renewed", "moved", "lost"].map(|name| temporary.path().join(name));
        let named = ["db1.example.net".to_owned(), "10.0.0.7".to_owned()];
        let Made { hosts, .. } = make(&tls, &named, ada(), None).expect("it can be made");
        let kept = make(&renewed, &[], None, Some(&tls)).expect("it can be made");
        assert_eq!((&kept.hosts, &*kept.client), (&hosts, "ada"));
        let of = |directory: &Path| hosts_in(directory).expect("it is there");
        let client = |directory: &Path| client_in(directory).expect("it is there");
        assert_eq!((of(&renewed), &*client(&renewed)), (hosts, "ada"));
        let other = ["2001:db8::7".to_owned()];
        let bob = Some("bob".to_owned());
        make(&moved, &other, bob, Some(&tls)).expect("it can be made");
        assert_eq!(of(&moved), [&LOCAL[..], &["2001:db8::7"]].concat());
        assert_eq!(client(&moved), "bob");
        for file in [SERVER, CLIENT] {
            fs::remove_file(tls.join(file)).expect("it was made");
        }
        let refused = make(&lost, &[], None, Some(&tls)).expect_err("nobody knows for which");
        assert!(refused.to_string().contains("--host"), "{refused}");
        make(&lost, &other, None, Some(&tls)).expect("they are named");
        assert_eq!(client(&lost), CLIENT_NAME);
    }

    #[test]
    fn a_certificate_can_be_renewed_before_and_after_the_ca_was_replaced_as_the_docs_say() {
        let temporary = tempfile::tempdir().expect("the temporary directory can be written");
        let [tls, next] = ["tls", "next"].map(|name| temporary.path().join(name));
        make(&tls, &[], ada(), None).expect("it can be made");
        let renew = |name: &str| make(&temporary.path().join(name), &[], ada(), Some(&tls));
        renew("before").expect("it belongs together");
        make(&next, &[], ada(), None).expect("it can be made");
        let ca = |directory: &Path| read(&directory.join(CA)).expect("it was made");
        fs::write(tls.join(CA), ca(&tls) + &ca(&next)).expect("it can be written");
        renew("step-1").expect("the old one is trusted, too");
        for moved in [SERVER, SERVER_KEY, CLIENT, CLIENT_KEY] {
            fs::rename(next.join(moved), tls.join(moved)).expect("it can be moved");
        }
        fs::write(tls.join(CA), ca(&next)).expect("it can be written");
        let refused = renew("with-the-old-key").expect_err("the key is of the old one");
        assert!(
            refused.to_string().contains("is not the key of a CA"),
            "{refused}"
        );
        assert!(!temporary.path().join("with-the-old-key").exists());
        fs::rename(next.join(CA_KEY), tls.join(CA_KEY)).expect("it can be moved");
        renew("after").expect("it belongs together");
    }

    #[test]
    fn what_to_do_with_renewed_certificates_is_not_to_start_servers_with_them() {
        let told = |ca_directory: Option<&str>, names_hosts| {
            let directory = PathBuf::from("re newed");
            let made = Made {
                hosts: vec!["localhost".to_owned()],
                client: "ada".to_owned(),
                certificates: Certificates::of(&directory),
                directory,
                ca_directory: ca_directory.map(PathBuf::from),
                names_hosts,
            };
            made.to_string()
        };
        let first = told(None, true);
        let (renewed, other) = (told(Some("tls"), false), told(Some("tls"), true));
        for told in [&first, &renewed, &other] {
            assert!(told.contains("for the client ada"), "{told}");
        }
        assert!(first.contains("rdb-pd --tls-cert"), "{first}");
        let command = "mv 're newed'/server.pem 're newed'/server.key tls/ ";
        assert!(renewed.contains(command), "{renewed}");
        assert!(!renewed.contains("rdb-pd"), "{renewed}");
        assert!(other.contains("Copy server.pem"), "{other}");
        // That would take the place of the certificate of another server.
        assert!(!other.contains("mv "), "{other}");
    }

    #[test]
    fn half_of_what_a_machine_needs_is_told_of() {
        let temporary = tempfile::tempdir().expect("the temporary directory can be written");
        let directory = temporary.path();
        let made = Certificates::of_this_machine(directory).expect("it can be made");
        let again = Certificates::of_this_machine(directory).expect("it is there");
        assert_eq!(made, again);
        fs::remove_file(&made.server_key).expect("it can be removed");
        let refused = Certificates::of_this_machine(directory).expect_err("one is missing");
        assert!(refused.to_string().contains("exists"), "{refused}");
    }

    #[test]
    fn a_host_that_is_none_is_wrong_usage() {
        let temporary = tempfile::tempdir().expect("the temporary directory can be written");
        let directory = temporary.path().join("tls");
        let refused = make(&directory, &["d\u{f6}b".to_owned()], ada(), None);
        assert!(matches!(refused, Err(Failure::Usage(_))), "{refused:?}");
        assert!(!directory.exists(), "nothing was done");
    }
}
