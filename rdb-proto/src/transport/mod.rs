//! The transport that servers and clients share: limits and windows in one place ([`limits`]); serving with drain
//! ([`serve`], [`health`], [`Termination`]); connecting ([`endpoint`]).
//!
//! A server, from the outside in:
//!
//! - `accept` takes a connection and gives it one of the `places`. `connection` drives it over its `socket`, and `traffic`
//!   counts what moves on it, down to its `wire`. With TLS it is `secured` first, by `tls`; `wrong_port` answers peers
//!   that do not speak the expected protocol.
//! - `call_service` serves a call, and refuses what is `not_grpc`. `guarded` refuses callers without the right (`access`),
//!   `deadline` bounds its time, and `call` holds what it is charged. `refusal` is its answer when there is no room in the
//!   `budget`. A stream needs one of the `stream_places`, too.
//! - The request comes through `arriving`, which finds its messages by their `framing`, and their entries (`bounded`), and
//!   refuses one whose `pace` is slow while others wait. The response leaves through `departing`. `call_task` ends a call whose
//!   peer takes nothing. `audited` notes in the audit log what belongs there.
//! - `services` finds the service that a request is for. `methods` is the table of all methods: what a caller needs for each,
//!   and how its requests are received. `figures` counts connections, and calls by the rows of that table.
//!
//! A caller connects by `connect`, over TLS or in `plain_text`, which lets no request out before the peer has answered.
//!
//! `process` is what the `main` of both servers shares, `settings` reads their flags, variables and files, `serve_flags` are
//! the flags that both have, `status` is what they show over HTTP, `service_manager` what systemd is told.

mod accept;
mod access;
mod address;
#[cfg(feature = "process")]
mod allocator;
mod arriving;
#[cfg(feature = "process")]
mod audited;
mod bounded;
mod budget;
mod call;
mod call_service;
mod call_task;
mod connect;
mod connection;
mod deadline;
mod departing;
#[cfg(test)]
mod described;
mod figures;
mod framing;
// Whose calls are looked at is what a server is about, and the client is not.
#[cfg_attr(not(feature = "process"), path = "unguarded.rs")]
mod guarded;
mod health;
pub mod limits;
mod listener;
#[cfg(feature = "process")]
mod log_filter;
mod methods;
mod not_grpc;
mod open_files;
mod pace;
mod places;
mod plain_text;
#[cfg(feature = "process")]
pub mod process;
mod refusal;
mod secured;
mod serve;
#[cfg(feature = "process")]
mod serve_flags;
#[cfg(feature = "process")]
mod service_manager;
mod services;
#[cfg(feature = "process")]
pub mod settings;
mod socket;
#[cfg(feature = "process")]
pub mod status;
mod stream_places;
mod termination;
#[cfg(feature = "tls")]
pub mod tls;
mod traffic;
mod uncharged;
mod unserved;
mod wire;
mod wrong_port;

pub use access::Access;
pub use address::{AddressError, check_address, check_advertised_address, parse_listen_address};
pub use budget::{Busy, ByteBudget, BytesInFlight, Reservation};
pub use call::Call;
pub use connect::{ByteStream, Connector, endpoint, tcp};
pub use figures::TransportFigures;
pub use health::{HealthHandle, NOT_SERVING_CAUSE, WARNING, WarningAbout, health};
pub use listener::Listener;
#[cfg(feature = "process")]
pub use methods::accesses;
pub use open_files::raise_open_files_limit;
pub use secured::Secured;
pub use serve::{OutOfRange, ServeError, ServeOptions, serve};
pub use services::{Services, grpc_response};
pub use termination::Termination;
pub use uncharged::UnchargedCalls;
pub use unserved::{UnservedCall, UnservedCalls, Wait, Waited};
pub use wrong_port::{PORT_SPEAKS_PLAIN_TEXT, PORT_SPEAKS_TLS, call_failure, wants_tls};
