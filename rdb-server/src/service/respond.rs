//! Responses of unary calls. A routing answer is in the response, a fault in the status.

use rdb_proto::errorpb::RegionError;
use rdb_proto::response::DataResponse;
use tonic::{Response, Status};

use crate::error::Rejection;

pub(super) fn respond<T: DataResponse>(
    result: Result<T, Rejection>,
) -> Result<Response<T>, Status> {
    match result {
        Ok(response) => Ok(Response::new(response)),
        Err(Rejection::Routing(kind)) => {
            let region_error = RegionError::from(kind);
            Ok(Response::new(T::misrouted(region_error)))
        }
        Err(Rejection::Denied(fault) | Rejection::Fault(fault)) => Err(fault.into()),
    }
}
