//! Responses of unary calls. A routing answer goes into the response, a fault into the status.

use rdb_proto::errorpb::RegionError;
use rdb_proto::kvrpc::{
    BatchGetResponse, RawBatchDeleteResponse, RawBatchGetResponse, RawBatchPutResponse,
    RawDeleteRangeResponse, RawScanResponse, ScanResponse,
};
use tonic::{Response, Status};

use crate::error::Rejection;

/// A response with a field for a routing answer. [`rdb_proto::point`] makes the responses of point commands.
pub(super) trait DataResponse: Default {
    fn set_region_error(&mut self, error: RegionError);
}

macro_rules! data_responses {
    ($($response:ty),+ $(,)?) => {
        $(impl DataResponse for $response {
            fn set_region_error(&mut self, error: RegionError) {
                self.region_error = Some(Box::new(error));
            }
        })+
    };
}

data_responses!(
    RawBatchPutResponse,
    RawBatchDeleteResponse,
    RawBatchGetResponse,
    RawScanResponse,
    RawDeleteRangeResponse,
    BatchGetResponse,
    ScanResponse,
);

pub(super) fn respond<T: DataResponse>(
    result: Result<T, Rejection>,
) -> Result<Response<T>, Status> {
    match result {
        Ok(response) => Ok(Response::new(response)),
        Err(Rejection::Routing(kind)) => {
            let mut response = T::default();
            response.set_region_error(kind.into());
            Ok(Response::new(response))
        }
        Err(Rejection::Fault(fault)) => Err(fault.into()),
    }
}
