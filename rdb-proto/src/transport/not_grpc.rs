//! Requests that are not gRPC get HTTP's answer ("gRPC over HTTP2", Requests), before anything looks at who sent them.
//!
//! That keeps web pages out. A browser presents its user's certificate for any page. But it sends gRPC's content type to another site only
//! if that site's server has allowed it, and ours never do.

use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tonic::body::Body;
use tonic::{Code, Status};

use crate::error::Fault;
use crate::errorpb::Fate;

/// The content types of calls whose messages are protobuf.
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

/// Whether it is a content type of gRPC, with any parameters.
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
