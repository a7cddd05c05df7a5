//! Answers: a rejection goes into the response when it is about routing, else into the status.

use rdb_proto::errorpb::RegionError;
use rdb_proto::kvrpc::{
    BatchGetResponse, CompareAndDeleteResponse, CompareAndSwapResponse, GetResponse,
    RawBatchDeleteResponse, RawBatchGetResponse, RawBatchPutResponse, RawDeleteRangeResponse,
    RawDeleteResponse, RawGetResponse, RawPutResponse, RawScanResponse, ScanResponse,
};
use tonic::{Response, Status};

use crate::error::Rejection;

/// A response that can say that the request came to the wrong place.
pub(super) trait Answer: Default {
    fn set_region_error(&mut self, error: RegionError);
}

macro_rules! answers {
    ($($response:ty),+ $(,)?) => {
        $(impl Answer for $response {
            fn set_region_error(&mut self, error: RegionError) {
                self.region_error = Some(Box::new(error));
            }
        })+
    };
}

answers!(
    RawPutResponse,
    RawGetResponse,
    RawDeleteResponse,
    RawBatchPutResponse,
    RawBatchDeleteResponse,
    RawBatchGetResponse,
    RawScanResponse,
    RawDeleteRangeResponse,
    CompareAndSwapResponse,
    GetResponse,
    CompareAndDeleteResponse,
    BatchGetResponse,
    ScanResponse,
);

/// What goes over the wire for the result of a request.
pub(super) fn answer<T: Answer>(result: Result<T, Rejection>) -> Result<Response<T>, Status> {
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
