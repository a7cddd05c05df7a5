//! The flags of a server that are about TLS.

use std::path::{Path, PathBuf};

use super::{ClientTls, ClientTlsOptions, Pem, ServerTls, ServerTlsOptions, TlsError};

/// The server's end with these files. `None`: there is none, so connections are plain text.
///
/// # Errors
///
/// [`TlsError`] says which flag is missing, or what cannot be used.
pub fn server_tls(
    certificate: Option<&Path>,
    key: Option<&Path>,
    client_ca: Option<&Path>,
) -> Result<Option<ServerTls>, TlsError> {
    let missing = |flag: &str, problem: &str| Err(TlsError::new(flag, problem));
    let (certificate, key) = match (certificate, key) {
        (Some(certificate), Some(key)) => (certificate, key),
        (Some(_), None) => return missing("--tls-cert", "--tls-key is missing, the key of it"),
        (None, Some(_)) => return missing("--tls-key", "--tls-cert is missing, its certificate"),
        (None, None) if client_ca.is_some() => {
            let problem = "--tls-cert and --tls-key are missing: without them connections are plain text, and nobody presents \
                           a certificate";
            return missing("--tls-client-ca", problem);
        }
        (None, None) => return Ok(None),
    };
    let options = ServerTlsOptions {
        certificate: Pem::File(certificate.to_owned()),
        key: Pem::File(key.to_owned()),
        client_ca: client_ca.map(|ca| Pem::File(ca.to_owned())),
    };
    ServerTls::new(options).map(Some)
}

/// The end of a server that connects to others: it trusts `ca`, else the CA of its clients, and presents its own certificate. `None`:
/// connections are plain text.
///
/// # Errors
///
/// [`TlsError`] says which flag is missing, or what cannot be used.
pub fn client_tls(
    ca: Option<&Path>,
    certificate: Option<&Path>,
    key: Option<&Path>,
    client_ca: Option<&Path>,
) -> Result<Option<ClientTls>, TlsError> {
    let (Some(certificate), Some(key)) = (certificate, key) else {
        return match ca {
            Some(_) => Err(TlsError::new(
                "--tls-ca",
                "--tls-cert and --tls-key are missing: without them connections are plain text",
            )),
            None => Ok(None),
        };
    };
    let (ca, setting) = match (ca, client_ca) {
        (Some(ca), _) => (ca, "--tls-ca"),
        (None, Some(client_ca)) => (client_ca, "--tls-client-ca"),
        (None, None) => {
            return Err(TlsError::new(
                "--tls-ca",
                "it is missing, and there is no --tls-client-ca in its place: with --tls-cert a store connects to placement drivers \
                 and other stores over TLS, and has to know which CA signs their certificates",
            ));
        }
    };
    let file = |path: &Path| Pem::File(PathBuf::from(path));
    let options =
        ClientTlsOptions::of_server(file(ca), setting).with_identity(file(certificate), file(key));
    ClientTls::new(options).map(Some)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::super::certificates::{Ca, Files, HOSTS, Validity};
    use super::*;

    fn files(directory: &TempDir) -> (Ca, Files) {
        let ca = Ca::new();
        let files = Files::write(directory.path(), &ca.server(), &ca);
        (ca, files)
    }

    fn directory() -> TempDir {
        TempDir::new().expect("the temporary directory can be written")
    }

    fn refused(certificate: Option<&Path>, key: Option<&Path>, ca: Option<&Path>) -> String {
        let refused = server_tls(certificate, key, ca).map(|tls| tls.is_some());
        refused.expect_err("it cannot work").to_string()
    }

    #[test]
    fn half_a_configuration_says_which_half_is_missing() {
        let directory = directory();
        let (_ca, files) = files(&directory);
        let (certificate, key, ca) = (Some(&*files.certificate), Some(&*files.key), &*files.ca);
        for ((certificate, key, client_ca), told) in [
            (
                (certificate, None, None),
                "--tls-cert: --tls-key is missing",
            ),
            ((None, key, None), "--tls-key: --tls-cert is missing"),
            (
                (None, None, Some(ca)),
                "--tls-client-ca: --tls-cert and --tls-key are missing",
            ),
        ] {
            let refused = refused(certificate, key, client_ca);
            assert!(refused.starts_with(told), "{refused}");
        }
        let told = client_tls(Some(ca), None, None, None).map(|tls| tls.is_some());
        let told = told.expect_err("plain text").to_string();
        assert!(told.starts_with("--tls-ca: --tls-cert and"), "{told}");
        let told = client_tls(None, certificate, key, None).map(|tls| tls.is_some());
        let told = told.expect_err("no CA").to_string();
        assert!(told.starts_with("--tls-ca: it is missing"), "{told}");
        assert!(matches!(server_tls(None, None, None), Ok(None)));
        assert!(matches!(client_tls(None, None, None, None), Ok(None)));
        assert!(matches!(
            server_tls(certificate, key, Some(ca)),
            Ok(Some(_))
        ));
        assert!(matches!(
            client_tls(None, certificate, key, Some(ca)),
            Ok(Some(_))
        ));
    }

    #[test]
    fn what_cannot_be_used_is_named_with_its_file() {
        let directory = directory();
        let (ca, files) = files(&directory);
        let (certificate, key) = (Some(&*files.certificate), Some(&*files.key));
        let missing = directory.path().join("missing");
        let told = refused(Some(&missing), key, None);
        assert!(told.contains("missing: it cannot be read: "), "{told}");
        let told = refused(key, key, None);
        assert!(told.contains("there is no certificate in it"), "{told}");
        let told = refused(certificate, certificate, None);
        assert!(told.contains("there is no private key in it"), "{told}");
        let other = directory.path().join("other.key");
        fs::write(&other, ca.server().key).expect("it can be written");
        let told = refused(certificate, Some(&other), None);
        assert!(
            told.starts_with("--tls-key ") && told.contains("it is not the key of --tls-cert "),
            "{told}"
        );
        let encrypted =
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
        fs::write(&other, encrypted).expect("it can be written");
        let told = refused(certificate, Some(&other), None);
        assert!(told.contains("is encrypted; decrypt it"), "{told}");
        let told = refused(certificate, key, key);
        assert!(told.starts_with("--tls-client-ca "), "{told}");
    }

    #[test]
    fn an_expired_certificate_and_a_key_that_all_can_read_are_warned_about() {
        use std::os::unix::fs::PermissionsExt;

        let directory = directory();
        let (ca, files) = files(&directory);
        let server = || {
            let tls = server_tls(Some(&files.certificate), Some(&files.key), None);
            tls.expect("it can be used").expect("it is TLS")
        };
        let set = |mode| {
            let mode = fs::Permissions::from_mode(mode);
            fs::set_permissions(&files.key, mode).expect("it is ours");
        };
        set(0o600);
        assert_eq!(server().warnings(), [""; 0]);
        set(0o644);
        files.replace(&ca.issue(&HOSTS, "server", Validity::UntilYesterday));
        let warnings = server().warnings().join("\n");
        for told in ["the certificate of CN=server has expired at ", "chmod 600"] {
            assert!(warnings.contains(told), "{warnings}");
        }
    }

    #[test]
    fn no_error_has_a_part_of_a_key_in_it() {
        const SHOWN: usize = 16;
        let directory = directory();
        let (_ca, files) = files(&directory);
        let key = fs::read_to_string(&files.key).expect("it was written");
        let body: String = key.lines().filter(|line| !line.starts_with('-')).collect();
        let good = directory.path().join("good.key");
        fs::write(&good, &key).expect("it can be written");
        let in_use = server_tls(Some(&files.certificate), Some(&files.key), Some(&files.ca));
        let in_use = in_use.expect("it can be used").expect("it is TLS");
        let flattened = key.replace('\n', "");
        let torn = flattened[..flattened.len() / 2].to_owned();
        let cut = key[..key.len() / 2].to_owned();
        let not_base64 = key.replacen(&body[8..16], "!!!!!!!!", 1);
        let label = format!("-----BEGIN {body}-----\n");
        for broken in [flattened, torn, cut, not_base64, label] {
            fs::write(&files.key, &broken).expect("it can be written");
            let (certificate, key) = (Some(&*files.certificate), Some(&*files.key));
            let of_client = client_tls(None, certificate, key, Some(&files.ca));
            let errors = [
                refused(certificate, key, None),
                refused(key, key, None),
                refused(certificate, Some(&good), key),
                of_client.map(drop).expect_err("it is broken").to_string(),
                in_use.reload().expect_err("it is broken").to_string(),
            ];
            for error in errors {
                let decimals = format!("{:?}", &broken.as_bytes()[..SHOWN]);
                assert!(
                    !error.contains(decimals.trim_matches(['[', ']'])),
                    "{error}"
                );
                for part in body.as_bytes().windows(SHOWN) {
                    let text = String::from_utf8_lossy(part);
                    let decimals = format!("{part:?}");
                    let decimals = decimals.trim_matches(['[', ']']);
                    assert!(
                        !error.contains(&*text) && !error.contains(decimals),
                        "{error}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_certificate_that_is_no_ca_s_is_no_ca_and_an_expired_ca_is_warned_about() {
        let directory = directory();
        let (ca, files) = files(&directory);
        let (certificate, key) = (Some(&*files.certificate), Some(&*files.key));
        let told = refused(certificate, key, certificate);
        assert!(told.contains("CN=server in it is no CA's"), "{told}");
        let told = client_tls(certificate, certificate, key, None).map(drop);
        let told = told.expect_err("it is no CA's").to_string();
        assert!(told.contains("CN=server in it is no CA's"), "{told}");

        let expired = Ca::valid(Validity::UntilYesterday);
        fs::write(&files.ca, format!("{}{}", ca.pem, expired.pem)).expect("it can be written");
        let tls = server_tls(certificate, key, Some(&files.ca));
        let warnings = tls.expect("it can be used").expect("it is TLS").warnings();
        let warnings = warnings.join("\n");
        assert!(
            warnings.contains(": the CA CN=CA has expired at "),
            "{warnings}"
        );
        let tls = client_tls(Some(&files.ca), certificate, key, None);
        let warnings = tls.expect("it can be used").expect("it is TLS").warnings();
        assert!(warnings.join("").starts_with("--tls-ca "), "{warnings:?}");
    }

    #[test]
    fn a_certificate_that_other_servers_refuse_is_told_of() {
        let directory = directory();
        let (_ca, files) = files(&directory);
        let other = directory.path().join("other.pem");
        fs::write(&other, Ca::new().pem).expect("it can be written");
        for (client_ca, is_fit) in [(&files.ca, true), (&other, false)] {
            let tls = server_tls(Some(&files.certificate), Some(&files.key), Some(client_ca));
            let tls = tls.expect("it can be used").expect("it is TLS");
            assert_eq!(tls.unfit_as_client().is_none(), is_fit, "{client_ca:?}");
        }
    }
}
