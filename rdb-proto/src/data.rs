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
            RawBatchPut(RawBatchPutRequest -> RawBatchPutResponse) { Write Raw, KvRawClient::raw_batch_put }
            RawBatchDelete(RawBatchDeleteRequest -> RawBatchDeleteResponse) { Write Raw, KvRawClient::raw_batch_delete }
            RawBatchGet(RawBatchGetRequest -> RawBatchGetResponse) { Read Raw, KvRawClient::raw_batch_get }
            RawScan(RawScanRequest -> RawScanResponse) { Read Raw, KvRawClient::raw_scan }
            RawDeleteRange(RawDeleteRangeRequest -> RawDeleteRangeResponse) { Write Raw, KvRawClient::raw_delete_range }
            BatchGet(BatchGetRequest -> BatchGetResponse) { Read Versioned, KvCasClient::batch_get }
            Scan(ScanRequest -> ScanResponse) { Read Versioned, KvCasClient::scan }
        }
    };
}
