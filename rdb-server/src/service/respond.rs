//! How the result of a call goes over the wire: a rejection that is about routing in the response, any other in the status.

use rdb_proto::errorpb::RegionError;
use rdb_proto::kvrpc::{
    BatchGetResponse, RawBatchDeleteResponse, RawBatchGetResponse, RawBatchPutResponse,
    RawDeleteRangeResponse, RawScanResponse, ScanResponse,
};
use tonic::{Response, Status};

use crate::error::Rejection;

/// A response that can say that the request came to the wrong place. Those of point commands are made by
/// [`rdb_proto::point`].
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
