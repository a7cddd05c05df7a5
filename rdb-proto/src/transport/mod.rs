//! The transport shell that both ends share: limits and windows on purpose, in one place ([`limits`]); serving with
//! drain ([`serve`], [`health`]); connecting ([`endpoint`]).

mod address;
mod connect;
mod connection;
mod health;
pub mod limits;
mod serve;

pub use address::{AddressError, check_address};
pub use connect::endpoint;
pub use health::{HealthHandle, health};
pub use serve::{ServeError, ServeOptions, serve, termination_signal};
