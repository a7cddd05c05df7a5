//! The transport shell that both ends share: limits and windows on purpose, in one place ([`limits`]); serving with
//! drain ([`serve`], [`health`], [`Termination`]); connecting ([`endpoint`]).
//!
//! A server's side, from the outside in: `accept` gives a connection one of the `places`, `connection` drives it over its
//! `socket`, `call_service` admits a call, whose request comes through `arriving` and whose answer leaves through
//! `departing`; both are charged to its `call`, and `call_task` ends one that cannot send.

mod accept;
mod address;
#[cfg(feature = "process")]
mod allocator;
mod arriving;
mod budget;
mod call;
mod call_service;
mod call_task;
mod connect;
mod connection;
mod deadline;
mod departing;
mod framing;
mod health;
pub mod limits;
mod open_files;
mod places;
#[cfg(feature = "process")]
pub mod process;
mod refusal;
mod serve;
mod socket;
mod termination;
mod traffic;

pub use address::{AddressError, check_address};
pub use budget::{Busy, ByteBudget, BytesInFlight, Reservation};
pub use call::CallBudget;
pub use connect::endpoint;
pub use health::{HealthHandle, health};
pub use open_files::raise_open_files_limit;
pub use serve::{ServeError, ServeOptions, serve};
pub use termination::Termination;
