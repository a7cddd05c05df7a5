//! What the responses of all requests to a region have in common.

use crate::errorpb::RegionError;
use crate::{adminpb, kvrpc};

/// A response with a field for a routing answer.
pub trait DataResponse: Default {
    /// The routing answer. Where it is set, no other field is.
    fn region_error_mut(&mut self) -> &mut Option<Box<RegionError>>;

    /// The response that is a routing answer.
    fn misrouted(region_error: impl Into<Box<RegionError>>) -> Self {
        let mut response = Self::default();
        *response.region_error_mut() = Some(region_error.into());
        response
    }
}

macro_rules! data_responses {
    ($package:ident: $($response:ident),*) => {
        $(impl DataResponse for $package::$response {
            fn region_error_mut(&mut self) -> &mut Option<Box<RegionError>> {
                &mut self.region_error
            }
        })*
    };
}

macro_rules! kv_responses {
    ($($command:ident($request:ident -> $response:ident) $call:tt)*) => {
        data_responses!(kvrpc: $($response),*);
    };
}

crate::data_commands!(kv_responses);
data_responses!(adminpb: BeginCheckResponse, GetChecksumResponse, TransferLeaderResponse);
