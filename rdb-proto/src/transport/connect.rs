//! The client's end of a connection.

use std::time::Duration;

use tonic::transport::Endpoint;

use super::address::{AddressError, check_address};
use super::limits::{
    CONNECTION_WINDOW_BYTES, HEADER_LIST_BYTES_MAX, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT,
    STREAM_WINDOW_BYTES,
};

/// An endpoint for `address` (`host:port`) with this crate's windows and keepalive.
///
/// # Errors
///
/// [`AddressError`] when the address has another form. Nothing is resolved or connected here.
pub fn endpoint(address: &str, connect_timeout: Duration) -> Result<Endpoint, AddressError> {
    check_address(address)?;
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|_| AddressError::new(address, "it does not fit into a URL"))?;
    Ok(endpoint
        .connect_timeout(connect_timeout)
        .tcp_nodelay(true)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .http2_max_header_list_size(HEADER_LIST_BYTES_MAX)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true))
}
