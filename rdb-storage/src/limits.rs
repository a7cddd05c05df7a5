//! All limits on data and requests. What exceeds one is refused with
//! [`Error::InvalidArgument`](crate::Error::InvalidArgument), which names the limit.

/// Longest key, in bytes. The shortest is 1.
pub const KEY_BYTES_MAX: usize = 8 << 10;

/// Longest value, in bytes. The shortest is 0: an empty value is a value.
pub const VALUE_BYTES_MAX: usize = 4 << 20;

/// Most entries of one batch, written or read.
pub const BATCH_ENTRIES_MAX: usize = 4096;

/// Most bytes of one batch, keys and values added up; also the most that one multi-key read returns.
pub const BATCH_BYTES_MAX: usize = 6 << 20;

/// Soft limit on the size of a page of a scan, in bytes.
pub const SCAN_PAGE_BYTES: usize = 1 << 20;

/// Bytes that each entry of a page counts beside its key and value. It bounds pages of tiny entries. Room for a page has to cover it.
pub const SCAN_ENTRY_OVERHEAD_BYTES: usize = 32;

/// Longest bound of a range, in bytes. A scan resumes at the last key with a 0x00 byte appended.
pub const SCAN_BOUND_BYTES_MAX: usize = KEY_BYTES_MAX + 1;

/// Longest value that a conflict carries, in bytes.
pub const CONFLICT_VALUE_BYTES_MAX: usize = 64 << 10;

/// Most bytes of values that the conflicts of one submission carry together; a submission may ask for fewer. A value that
/// does not fit is left out, like one that is too long.
pub const CONFLICT_VALUES_BYTES_MAX: usize = 4 << 20;

/// The region that embedded use names.
pub const EMBEDDED_REGION_ID: u64 = 1;
