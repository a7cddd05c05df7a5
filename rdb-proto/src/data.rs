//! All commands on data: point commands, and those for several keys or a range. The latter are unary calls only.

/// The table of commands on data. Calls the macro `$with` with the rows of [`point_commands`](crate::point_commands), then one
/// of the same shape for each other command.
#[macro_export]
macro_rules! data_commands {
    ($with:path) => {
        $crate::point_commands!($crate::data_commands, @others $with;);
    };
    (@others $with:path; $($points:tt)*) => {
        $with! {
            $($points)*
            RawBatchPutRequest, Write Raw => KvRawClient::raw_batch_put, RawBatchPut -> RawBatchPutResponse;
            RawBatchDeleteRequest, Write Raw => KvRawClient::raw_batch_delete, RawBatchDelete -> RawBatchDeleteResponse;
            RawBatchGetRequest, Read Raw => KvRawClient::raw_batch_get, RawBatchGet -> RawBatchGetResponse;
            RawScanRequest, Read Raw => KvRawClient::raw_scan, RawScan -> RawScanResponse;
            RawDeleteRangeRequest, Write Raw => KvRawClient::raw_delete_range, RawDeleteRange -> RawDeleteRangeResponse;
            BatchGetRequest, Read Versioned => KvCasClient::batch_get, BatchGet -> BatchGetResponse;
            ScanRequest, Read Versioned => KvCasClient::scan, Scan -> ScanResponse;
        }
    };
}
