//! The services of a server, each found by the path of a request.
//!
//! Not tonic's own router: it wraps every request and response three times more than tonic's services need.

use std::convert::Infallible;
use std::future::ready;
use std::sync::Arc;

use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::header::CONTENT_TYPE;
use tonic::codegen::http::{Request, Response};
use tonic::codegen::{self, BoxFuture};
use tonic::metadata::GRPC_CONTENT_TYPE;
use tonic::server::NamedService;

type Answering = BoxFuture<Response<Body>, Infallible>;
type Service = dyn Fn(Request<Body>) -> Answering + Send + Sync;

/// The services of a server.
#[derive(Clone, Default)]
pub struct Services {
    by_name: Vec<(&'static str, Arc<Service>)>,
}

impl Services {
    /// Adds a service that tonic has generated.
    #[must_use]
    pub fn add_service<S>(mut self, service: S) -> Self
    where
        S: codegen::Service<
                Request<Body>,
                Response = Response<Body>,
                Error = Infallible,
                Future = Answering,
            >,
        S: NamedService + Clone + Send + Sync + 'static,
    {
        // It is always ready.
        let answer = move |request| service.clone().call(request);
        self.by_name.push((S::NAME, Arc::new(answer)));
        self
    }

    /// Has the service that the request's path names answer it.
    pub(super) fn answer(&self, request: Request<Body>) -> Answering {
        let path = request.uri().path();
        let mut services = self.by_name.iter();
        match services.find(|(name, _)| is_of(path, name)) {
            Some((_, service)) => service(request),
            None => {
                let unknown = Status::unimplemented("this server has no such service");
                Box::pin(ready(Ok(unknown.into_http())))
            }
        }
    }
}

/// The response of a service that tonic has not generated: its body, or how the call has failed at once.
pub fn grpc_response(answered: Result<Body, Status>) -> Response<Body> {
    let body = match answered {
        Ok(body) => body,
        Err(status) => return status.into_http(),
    };
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, GRPC_CONTENT_TYPE);
    response
}

/// Whether the path is that of a method of the service: `/service/method`.
fn is_of(path: &str, service: &str) -> bool {
    let rest = path.strip_prefix('/');
    let rest = rest.and_then(|rest| rest.strip_prefix(service));
    rest.is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_of_the_service_whose_whole_name_it_begins_with() {
        assert!(is_of("/kvrpc.KvRaw/RawGet", "kvrpc.KvRaw"));
        for path in [
            "/kvrpc.KvRawer/RawGet",
            "/kvrpc.KvRa/RawGet",
            "/kvrpc.KvRaw",
            "kvrpc.KvRaw/RawGet",
            "/",
            "",
        ] {
            assert!(!is_of(path, "kvrpc.KvRaw"), "{path}");
        }
    }
}
