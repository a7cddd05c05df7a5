//! What a line of the audit log is about.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;

use super::AuditKey;
use crate::transport::tls::PeerIdentity;

/// Most bytes that an event keeps of a user's name, of a request and of a cause.
pub(super) const TEXT_BYTES_MAX: usize = 256;

/// Most keys that an event names one by one. The events that can wait take up to 32 MiB for them.
pub const EVENT_KEYS_MAX: usize = 64;

/// Whose call an event is about.
#[derive(Debug, Clone, Default)]
pub struct AuditCaller {
    /// The name of the user. `None`: it is not known, or nobody asks for one.
    pub user: Option<Arc<str>>,
    /// Whose certificate the connection has. `None`: nobody's.
    pub identity: Option<Arc<PeerIdentity>>,
    /// Where the connection comes from.
    pub peer: Option<SocketAddr>,
}

/// Which events find room when many wait: greater ranks find room for longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AuditRank {
    /// A refusal of a caller, or anything else that everybody can cause without limit.
    Refusal,
    /// A write that its caller had the right to.
    Write,
    /// An administrative call whose caller was not refused, or a call that may have made the first administrator.
    Administrative,
}

/// A request of a caller, and its outcome.
#[derive(Debug, Clone)]
pub struct AuditEvent {
    /// How full the queue may be for the event to find room in it.
    pub rank: AuditRank,
    /// Who.
    pub caller: AuditCaller,
    /// The service that was called, e.g. `kvrpc.KvRaw`.
    pub service: &'static str,
    /// Its method, e.g. `RawPut`.
    pub method: &'static str,
    /// What was asked for, in words without keys, values and tokens. Empty: the method says it all.
    pub asked: Cow<'static, str>,
    /// The kind of the command, e.g. `raw_put`. `None`: it is no command.
    pub command: Option<&'static str>,
    /// How many keys or commands the line stands for. 1 is not written.
    pub count: usize,
    /// The key, the first of several or the refused one, the prefix of a grant, or where a range begins.
    pub key: Option<AuditKey>,
    /// Each key, or the first [`EVENT_KEYS_MAX`], where there are several and each is told of.
    pub keys: Vec<AuditKey>,
    /// Where a range ends.
    pub end_key: Option<AuditKey>,
    /// The outcome, see [`outcome_of`](super::outcome_of). Commands also have the outcomes of `flaredb_commands_total`.
    pub outcome: &'static str,
    /// Why, without keys and values. Empty: there is nothing to say.
    pub cause: Cow<'static, str>,
}

impl AuditEvent {
    /// An event without a command, a key and words, of the lowest rank.
    pub fn of_call(
        caller: AuditCaller,
        (service, method): (&'static str, &'static str),
        outcome: &'static str,
    ) -> Self {
        Self {
            rank: AuditRank::Refusal,
            caller,
            service,
            method,
            asked: Cow::Borrowed(""),
            command: None,
            count: 1,
            key: None,
            keys: Vec::new(),
            end_key: None,
            outcome,
            cause: Cow::Borrowed(""),
        }
    }

    /// The same event, with texts that are short enough to be kept.
    pub(super) fn shortened(mut self) -> Self {
        shorten(&mut self.asked);
        shorten(&mut self.cause);
        self
    }
}

fn shorten(text: &mut Cow<'static, str>) {
    if text.len() <= TEXT_BYTES_MAX {
        return;
    }
    let mut end = TEXT_BYTES_MAX;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    *text = Cow::Owned(format!("{}…", &text[..end]));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_between_characters() {
        let long = "ü".repeat(TEXT_BYTES_MAX);
        let mut event = AuditEvent::of_call(AuditCaller::default(), ("a.B", "C"), "ok");
        event.cause = long.clone().into();
        event.asked = format!("x{long}").into();
        let short = event.shortened();
        for text in [&short.cause, &short.asked] {
            assert!(text.ends_with('…') && text.len() <= TEXT_BYTES_MAX + 3);
        }
        let unchanged = AuditEvent::of_call(AuditCaller::default(), ("a.B", "C"), "ok");
        assert_eq!(unchanged.shortened().cause, "");
    }
}
