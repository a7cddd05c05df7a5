//! What is no call of gRPC is answered as HTTP answers it ("gRPC over HTTP2", Requests), before anybody looks at who has sent it.
//!
//! That keeps web pages out. For any page a browser presents the certificate of its user; but what has the content type of gRPC it sends to
//! another site only where a server has allowed that before, and none of ours does.

use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tonic::body::Body;
use tonic::{Code, Status};

use crate::error::Fault;
use crate::errorpb::Fate;

/// Those of calls whose messages are protobuf.
const CONTENT_TYPES: [&str; 2] = ["application/grpc", "application/grpc+proto"];

/// The answer to a request that is no call of gRPC. `None`: it is one.
pub(super) fn refusal<B>(request: &Request<B>) -> Option<Response<Body>> {
    if request.method() != Method::POST {
        let cause = "this port serves gRPC: a call is a POST";
        let mut answer = answer(StatusCode::METHOD_NOT_ALLOWED, cause);
        let allowed = HeaderValue::from_static("POST");
        answer.headers_mut().insert(ALLOW, allowed);
        return Some(answer);
    }
    let content_type = request.headers().get(CONTENT_TYPE);
    if content_type.is_some_and(is_of_grpc) {
        return None;
    }
    let cause = "this port serves gRPC: the content-type of a call is application/grpc or application/grpc+proto";
    Some(answer(StatusCode::UNSUPPORTED_MEDIA_TYPE, cause))
}

/// Whether it is one of gRPC, with whatever parameters.
fn is_of_grpc(content_type: &HeaderValue) -> bool {
    let content_type = content_type.to_str().unwrap_or_default();
    let (kind, _) = content_type.split_once(';').unwrap_or((content_type, ""));
    let mut known = CONTENT_TYPES.iter();
    known.any(|known| kind.trim_end().eq_ignore_ascii_case(known))
}

fn answer(status: StatusCode, cause: &str) -> Response<Body> {
    let fault = Fault::new(Code::InvalidArgument, cause).with_fate(Fate::NotApplied);
    let mut answer = Status::from(fault).into_http();
    *answer.status_mut() = status;
    answer
}
