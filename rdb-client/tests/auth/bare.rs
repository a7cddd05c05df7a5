//! HTTP/2 by hand: headers with any bytes, as no library sends them.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::guarded;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Most bytes of a frame.
const FRAME_BYTES_MAX: usize = 16 << 10;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// A header field with any bytes.
pub(crate) type Field = (Vec<u8>, Vec<u8>);

/// How a call has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// With an answer that has a message.
    Served,
    /// With a status alone, or it was reset.
    Refused,
    /// With the connection.
    Closed,
}

/// A connection to a server.
pub(crate) struct Bare {
    stream: TcpStream,
    next_id: u32,
}

impl Bare {
    pub(crate) async fn connect(address: &str) -> io::Result<Self> {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        stream.write_all(PREFACE).await?;
        let mut connection = Self { stream, next_id: 1 };
        connection.send(SETTINGS, 0, 0, &[]).await?;
        Ok(connection)
    }

    /// Makes a call with a message, which may be empty, and these fields beside those that every call has.
    pub(crate) async fn call(&mut self, path: &str, fields: &[Field], message: &[u8]) -> Ended {
        match self.begin(path, fields).await {
            Ok(id) => self.finish(id, message).await,
            // A server that closes may do so before it has read all.
            Err(_) => Ended::Closed,
        }
    }

    /// Begins a call, and returns its number. Its message does not follow yet.
    ///
    /// # Errors
    ///
    /// The server has closed the connection.
    pub(crate) async fn begin(&mut self, path: &str, fields: &[Field]) -> io::Result<u32> {
        let id = self.next_id;
        self.next_id += 2;
        let mut block = Vec::new();
        for (name, value) in [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "bare"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ] {
            push_field(&mut block, name.as_bytes(), value.as_bytes());
        }
        for (name, value) in fields {
            push_field(&mut block, name, value);
        }
        let mut parts = block.chunks(FRAME_BYTES_MAX).peekable();
        let mut kind = HEADERS;
        while let Some(part) = parts.next() {
            let flags = if parts.peek().is_none() {
                END_HEADERS
            } else {
                0
            };
            self.send(kind, flags, id, part).await?;
            kind = CONTINUATION;
        }
        Ok(id)
    }

    /// Sends the message of a call that was begun, and waits for its end.
    pub(crate) async fn finish(&mut self, id: u32, message: &[u8]) -> Ended {
        let length = u32::try_from(message.len()).expect("short");
        let body = [&[0][..], &length.to_be_bytes(), message].concat();
        let ended = async {
            self.send(DATA, END_STREAM, id, &body).await?;
            self.ended(id).await
        };
        let ended: io::Result<Ended> = guarded("a call ends", ended).await;
        ended.unwrap_or(Ended::Closed)
    }

    /// Reads until the call has ended.
    async fn ended(&mut self, id: u32) -> io::Result<Ended> {
        let mut is_served = false;
        loop {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).await?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let (kind, flags) = (head[3], head[4]);
            let of = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & (u32::MAX >> 1);
            let mut payload = vec![0; usize::try_from(length).expect("24 bits")];
            self.stream.read_exact(&mut payload).await?;
            match kind {
                SETTINGS if flags & ACK == 0 => self.send(SETTINGS, ACK, 0, &[]).await?,
                PING if flags & ACK == 0 => self.send(PING, ACK, 0, &payload).await?,
                GOAWAY => return Ok(Ended::Closed),
                RST_STREAM if of == id => return Ok(Ended::Refused),
                DATA | HEADERS if of == id => {
                    // A message, of which some are empty, has five bytes before it.
                    is_served |= kind == DATA && payload.len() >= 5;
                    if flags & END_STREAM != 0 {
                        return Ok(if is_served {
                            Ended::Served
                        } else {
                            Ended::Refused
                        });
                    }
                }
                _ => {}
            }
        }
    }

    async fn send(&mut self, kind: u8, flags: u8, id: u32, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        let head = [&length[1..], &[kind, flags], &id.to_be_bytes()].concat();
        self.stream.write_all(&[&head, payload].concat()).await
    }
}

/// A literal field that is not indexed (RFC 7541, section 6.2.2).
fn push_field(block: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    block.push(0);
    for text in [name, value] {
        push_length(block, text.len());
        block.extend_from_slice(text);
    }
}

/// An integer with a prefix of seven bits (RFC 7541, section 5.1), which says that a text is not compressed.
fn push_length(block: &mut Vec<u8>, length: usize) {
    const PREFIX: usize = 0x7f;
    if length < PREFIX {
        block.push(length as u8);
        return;
    }
    block.push(PREFIX as u8);
    let mut rest = length - PREFIX;
    while rest >= 0x80 {
        block.push((rest % 0x80) as u8 | 0x80);
        rest /= 0x80;
    }
    block.push(rest as u8);
}
