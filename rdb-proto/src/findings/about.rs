//! What a cause is about, which decides the advice.
//!
//! A cause is text: a process says why it does not serve, or what needs attention although it does, and a client says why it does not
//! reach a process. The text itself is matched, since processes of earlier releases send nothing else. Tests beside the code that makes
//! the texts keep both in step.

use super::Finding;
use super::store::not_serving_advice;

/// What a cause is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// A store that is no user with the role `store`.
    Identity,
    /// Users and their grants, or a store's copy of the rights.
    Rights,
    /// The file of the audit log.
    AuditLog,
    /// Certificates, keys, and who speaks TLS.
    Tls,
    /// Something else.
    Other,
}

/// What a cause is known by, in whole words: hosts and files have names of all kinds. One that stands before another may have that one's
/// words, too.
const WORDS: [(About, &[&str]); 4] = [
    (About::Identity, &["--auth-token-file"]),
    (About::Rights, &["rights", "grants"]),
    (About::AuditLog, &["audit log"]),
    (
        About::Tls,
        &[
            "certificate",
            "certificates",
            "TLS",
            "--tls-",
            "does not speak HTTP/2",
            "ended the handshake",
        ],
    ),
];

impl About {
    /// What `cause` is about.
    pub fn of(cause: &str) -> Self {
        let is_told = |words: &[&str]| words.iter().any(|word| has(cause, word));
        let found = WORDS.into_iter().find(|&(_, words)| is_told(words));
        found.map_or(Self::Other, |(about, _)| about)
    }
}

/// Whether a cause has these words, and not as a part of a longer name.
fn has(cause: &str, words: &str) -> bool {
    let is_of_name = |c: char| c.is_alphanumeric() || "-_./:".contains(c);
    cause.match_indices(words).any(|(at, _)| {
        let (before, after) = (&cause[..at], &cause[at + words.len()..]);
        // A sentence may end here.
        let after = after.trim_start_matches(['.', ':']);
        let is_end = words.ends_with('-') || !after.starts_with(is_of_name);
        is_end && !before.ends_with(is_of_name)
    })
}

/// What to do about a process that says this of itself, if what it is about tells that. `process` names it.
pub(super) fn advice(process: &str, cause: &str) -> Option<String> {
    Some(match About::of(cause) {
        About::Identity => format!(
            "put the token of a user with the role store into the file that --auth-token-file of {process} names: it is read again by \
             itself. `rdbctl auth user list` shows who has that role, and `rdbctl auth user token USER --add` makes a token"
        ),
        About::Rights => format!(
            "see to what {process} says: `rdbctl auth user list` shows users and their rights, rdb-pd enforces those with --auth, and \
             stores ask it for them"
        ),
        About::AuditLog => format!(
            "make room on the disk of the audit log of {process}, or let its user write there: the log goes on by itself"
        ),
        About::Tls => format!(
            "see to the certificates and keys that {process} is started with, by the flags --tls-…: files that are replaced are read \
             again by themselves"
        ),
        About::Other => return None,
    })
}

/// What to do about a process that runs but is not reached, because its TLS settings and the caller's do not fit together.
pub fn tls_advice(process: &str) -> String {
    format!(
        "{process} runs: see to TLS. Here --ca names the CA of its certificate, and --cert and --key a certificate for clients where it asks \
         for one (RDBCTL_CA, RDBCTL_CERT, RDBCTL_KEY). There a certificate that has expired, or is for another host, is to be replaced"
    )
}

/// What a process says that has to be looked at, though it serves. `process` names it.
pub fn of_warning(process: &str, warning: &str) -> Finding {
    Finding::notice(
        format!("{process} serves, and says: {warning}"),
        not_serving_advice(process, warning),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_hosts_and_files_say_nothing() {
        for cause in [
            "grants-db-1:20160: Connection refused (os error 111)",
            "rights:20160 gave no answer in time",
            "certificates.example.com:1: no route to host",
            "/data/TLS/certificate.d: Permission denied",
        ] {
            assert_eq!(About::of(cause), About::Other, "{cause}");
        }
        for cause in ["this port speaks TLS.", "bad certificate: it has expired"] {
            assert_eq!(About::of(cause), About::Tls, "{cause}");
        }
    }

    #[test]
    fn what_to_do_about_a_warning_goes_by_what_it_is_about() {
        for (warning, told) in [
            (
                "the copy of the rights is 9 s old: pd:1: the token is no user's; give it one in --auth-token-file, or that role to the \
                 user of its certificate",
                "the role store",
            ),
            ("the copy of the rights is 40 s old: pd:1: away", "--auth"),
            (
                "the audit log a.log cannot be written: No space left on device",
                "make room",
            ),
            (
                "--tls-key a.key: it can be read by all",
                "certificates and keys",
            ),
            ("it has another flaw", "see the log of store 1"),
        ] {
            let Finding { what, to_do, .. } = of_warning("store 1", warning);
            assert!(what.ends_with(warning), "{what}");
            assert!(to_do.contains(told), "{warning}: {to_do}");
            assert!(to_do.contains("store 1"), "{to_do}");
        }
    }
}
