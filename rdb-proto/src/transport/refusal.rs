//! How a call is refused that finds no room: in the form that its client takes for certainly not applied.

use futures::stream;
use hyper::Response;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use tonic::codec::{EncodeBody, SingleMessageCompressionOverride};
use tonic::{Code, Status, body::Body};
use tonic_prost::ProstEncoder;

use crate::error::Fault;
use crate::errorpb::{Fate, RegionError, ServerBusy, region_error};
use crate::kvrpc::RawPutResponse;
use crate::response::DataResponse;

/// What a client that is told to back off waits at least.
const BACKOFF_MS: u64 = 100;

/// Which answer of a method says that there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// A response with `region_error`, which is field 1 of every unary response of `kvrpc`.
    RegionError,
    /// A status with a fate in its details.
    Status,
}

impl Refusal {
    /// The form for the method at `path`, e.g. `/kvrpc.KvRaw/RawGet`.
    pub(super) fn of(path: &str) -> Self {
        if path.starts_with("/kvrpc.KvRaw/") || path.starts_with("/kvrpc.KvCas/") {
            Self::RegionError
        } else {
            Self::Status
        }
    }

    /// The whole answer.
    pub(super) fn response(self) -> Response<Body> {
        match self {
            Self::RegionError => server_busy(),
            Self::Status => no_room().into_http(),
        }
    }
}

/// Ends a request that found no room.
pub(super) fn no_room() -> Status {
    status(
        Code::ResourceExhausted,
        "the server holds as many bytes of requests and answers as it may; try again",
    )
}

/// Ends a request of which a message does not arrive.
pub(super) fn overdue() -> Status {
    status(
        Code::DeadlineExceeded,
        "a message of the request did not arrive in time",
    )
}

fn status(code: Code, cause: &str) -> Status {
    Fault::new(code, cause).with_fate(Fate::NotApplied).into()
}

fn server_busy() -> Response<Body> {
    let busy = region_error::Kind::ServerBusy(ServerBusy {
        backoff_ms: BACKOFF_MS,
    });
    let response = RawPutResponse::misrouted(RegionError::from(busy));
    let body = EncodeBody::new_server(
        ProstEncoder::<RawPutResponse>::default(),
        stream::iter([Ok(response)]),
        None,
        SingleMessageCompressionOverride::default(),
        None,
    );
    let mut response = Response::new(Body::new(body));
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(CONTENT_TYPE, grpc);
    response
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    /// What makes it right to answer any unary method of `kvrpc` with the same bytes.
    #[test]
    fn every_unary_response_of_kvrpc_has_the_region_error_as_field_1() {
        let set = FileDescriptorSet::decode(crate::FILE_DESCRIPTOR_SET).expect("compiled in");
        let kvrpc = set.file.iter().find(|file| file.package() == "kvrpc");
        let kvrpc = kvrpc.expect("compiled in");
        for service in &kvrpc.service {
            for method in &service.method {
                let path = format!("/kvrpc.{}/{}", service.name(), method.name());
                let is_unary = !method.client_streaming() && !method.server_streaming();
                assert_eq!(
                    Refusal::of(&path) == Refusal::RegionError,
                    is_unary,
                    "{path}"
                );
                let output = method.output_type().trim_start_matches(".kvrpc.");
                let response = kvrpc.message_type.iter().find(|m| m.name() == output);
                let first = response.and_then(|m| m.field.iter().find(|f| f.number() == 1));
                if is_unary {
                    let type_name = first.expect("has a field 1").type_name();
                    assert_eq!(type_name, ".errorpb.RegionError", "{path}");
                }
            }
        }
    }
}
