//! A peer that speaks TLS to a port that does not, plain text to one that does, or HTTP/1.1 to any: what each is told.
//!
//! Each gets an answer that its side recognises:
//!
//! | speaks | port | answer | who understands it |
//! | --- | --- | --- | --- |
//! | TLS | plain text | HTTP/1.1 400 | FlareDB's clients, and others: no record of TLS begins like that |
//! | HTTP/2 | TLS | GOAWAY, `INADEQUATE_SECURITY`, with words | FlareDB's clients and every gRPC library |
//! | HTTP/1.1 | TLS or plain text | HTTP/1.1 400 | browsers and curl |

use std::borrow::Cow;
use std::error::Error;
use std::io;
use std::iter::successors;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tonic::Status;

/// What a peer is told that speaks plain text to a port with TLS.
pub const PORT_SPEAKS_TLS: &str = "this port speaks TLS";

/// What a peer is told that speaks TLS to a port without.
pub const PORT_SPEAKS_PLAIN_TEXT: &str = "this port speaks plain text, not TLS";

/// What a peer is told that speaks HTTP/1.1, e.g. since it looks for the status page.
const PORT_SPEAKS_GRPC: &str = "this port speaks gRPC over HTTP/2; the status page is at --status-addr, by default on the loopback address at a \
    port 1000 above this one";

/// The first byte of a handshake's record, and the first of its version (RFC 8446, section 5.1).
const HANDSHAKE_RECORD: [u8; 2] = [22, 3];

/// Frames of HTTP/2 (RFC 9113, sections 4.1, 6.5, 6.8 and 7).
pub(super) const EMPTY_SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
pub(super) const GOAWAY: u8 = 7;
pub(super) const INADEQUATE_SECURITY: u32 = 0xc;

/// How long the peer has to take the answer, and to close its side.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);

/// Whether a peer has ended the connection since it speaks TLS, and plain text was sent.
pub fn wants_tls(error: &h2::Error) -> bool {
    let is_told = error.is_remote() && error.is_go_away();
    is_told && error.reason() == Some(h2::Reason::INADEQUATE_SECURITY)
}

/// Why a call of a store has failed: what HTTP/2 says about its connection, or what the status says, with the cause of that.
pub fn call_failure(status: &Status) -> Cow<'_, str> {
    let sources = || successors(status.source(), |&error| error.source());
    if let Some(error) = sources().find_map(|error| error.downcast_ref::<h2::Error>()) {
        return error.to_string().into();
    }
    let message = status.message();
    match sources().last().map(ToString::to_string) {
        Some(cause) if !message.contains(&cause) => format!("{message}: {cause}").into(),
        _ => message.into(),
    }
}

/// Whether what a peer has sent first is the beginning of a TLS handshake.
pub(super) fn is_handshake(first_bytes: &[u8]) -> bool {
    first_bytes.starts_with(&HANDSHAKE_RECORD)
}

/// Whether what a peer has sent first is plain HTTP.
pub(super) fn is_plain_text(first_bytes: &[u8]) -> bool {
    first_bytes.first().is_some_and(u8::is_ascii_uppercase)
}

/// Whether what a peer has sent first, without TLS or within it, is an older HTTP than HTTP/2.
pub(super) fn is_http_1(first_bytes: &[u8]) -> bool {
    is_plain_text(first_bytes) && !first_bytes.starts_with(b"PRI")
}

/// What a peer is answered that speaks TLS to a port without.
pub(super) fn to_tls() -> Vec<u8> {
    bad_request(PORT_SPEAKS_PLAIN_TEXT)
}

/// What a peer is answered that speaks an older HTTP than HTTP/2.
pub(super) fn to_http_1() -> Vec<u8> {
    bad_request(PORT_SPEAKS_GRPC)
}

/// What a peer is answered whose plain text to a port with TLS begins so.
#[cfg(feature = "tls")]
pub(super) fn to_plain_text(first_bytes: &[u8]) -> Vec<u8> {
    let is_http_2 = b"PRI".starts_with(&first_bytes[..first_bytes.len().min(3)]);
    if is_http_2 {
        go_away(PORT_SPEAKS_TLS)
    } else {
        bad_request(PORT_SPEAKS_TLS)
    }
}

fn bad_request(told: &str) -> Vec<u8> {
    let length = told.len() + 1;
    format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{told}\n"
    )
    .into_bytes()
}

#[cfg(feature = "tls")]
fn go_away(told: &str) -> Vec<u8> {
    let last_stream_id = 0_u32;
    let payload_bytes = (2 * size_of::<u32>() + told.len()) as u8;
    let mut frames = EMPTY_SETTINGS.to_vec();
    frames.extend([0, 0, payload_bytes, GOAWAY, 0, 0, 0, 0, 0]);
    frames.extend(last_stream_id.to_be_bytes());
    frames.extend(INADEQUATE_SECURITY.to_be_bytes());
    frames.extend(told.as_bytes());
    frames
}

/// Sends `answer` and closes. Reads on until the peer has closed its side: a socket that is closed with bytes unread takes
/// from its peer what that has not read.
pub(super) async fn answer_and_close(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    answer: &[u8],
) {
    let closing = async {
        stream.write_all(answer).await?;
        stream.shutdown().await?;
        let mut discarded = [0; 4096];
        while stream.read(&mut discarded).await? > 0 {}
        io::Result::Ok(())
    };
    // The peer may be gone.
    let _ = timeout(LINGER_TIMEOUT, closing).await;
}

#[cfg(all(test, feature = "tls"))]
mod tests {
    use super::*;

    #[test]
    fn what_comes_first_says_what_is_spoken() {
        assert!(is_handshake(&[22, 3, 1, 0, 200]));
        assert!(!is_handshake(b"PRI * HTTP/2.0"));
        assert!(is_plain_text(b"PRI * HTTP/2.0") && is_plain_text(b"GET / HTTP/1.1"));
        assert!(!is_plain_text(&[22, 3, 1]) && !is_plain_text(&[]));
        assert!(is_http_1(b"GET / HTTP/1.1") && is_http_1(b"POST / HTTP/1.0"));
        assert!(!is_http_1(b"PRI * HTTP/2.0") && !is_http_1(&[22, 3, 1]));
    }

    #[test]
    fn each_kind_of_plain_text_gets_an_answer_of_its_own() {
        let http_2 = to_plain_text(b"PRI * HTTP/2.0");
        assert_eq!(http_2[..9], EMPTY_SETTINGS);
        let goaway = &http_2[9..];
        assert_eq!(usize::from(goaway[2]), goaway.len() - 9);
        assert!(goaway.ends_with(PORT_SPEAKS_TLS.as_bytes()));
        for first in ["GET / HTTP/1.1", "POST /", "PUT /"] {
            let answer = to_plain_text(first.as_bytes());
            assert!(answer.starts_with(b"HTTP/1.1 400 "), "{first}");
        }
    }
}
