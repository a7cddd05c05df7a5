//! How a call that finds no room is refused: in a form that tells its client that it was certainly not applied.

use futures::stream;
use hyper::Response;
use tonic::codec::{EncodeBody, SingleMessageCompressionOverride};
use tonic::{Code, Status, body::Body};
use tonic_prost::ProstEncoder;

use super::limits::BYTES_BACKOFF;
use super::methods::Method;
use super::services::grpc_response;
use crate::error::{Fault, busy};
use crate::errorpb::{Fate, RegionError};
use crate::kvrpc::RawPutResponse;
use crate::response::DataResponse;

/// The answer to a call of `method` that found no room.
pub(super) fn refused(method: &Method) -> Response<Body> {
    if method.has_region_error {
        server_busy()
    } else {
        no_room().into_http()
    }
}

/// Ends a request that found no room.
pub(super) fn no_room() -> Status {
    status(
        Code::ResourceExhausted,
        "the server holds as many bytes of requests and answers as it may; try again",
    )
}

/// Ends a request with a message that does not arrive.
pub(super) fn overdue() -> Status {
    status(
        Code::DeadlineExceeded,
        "a message of the request did not arrive in time",
    )
}

fn status(code: Code, cause: &str) -> Status {
    Fault::new(code, cause).with_fate(Fate::NotApplied).into()
}

/// Other responses begin with the same field.
fn server_busy() -> Response<Body> {
    let response = RawPutResponse::misrouted(RegionError::from(busy(BYTES_BACKOFF)));
    let body = EncodeBody::new_server(
        ProstEncoder::<RawPutResponse>::default(),
        stream::iter([Ok(response)]),
        None,
        SingleMessageCompressionOverride::default(),
        None,
    );
    grpc_response(Ok(Body::new(body)))
}
