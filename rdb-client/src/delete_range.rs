//! Deleting a range that may span regions.
//!
//! Regions are done one after the other, from the lowest up. So after a failure the fate of at most one of them is unknown.
//! Each step looks its region up again, so a split in between does no harm.

use rdb_proto::kvrpc::RawDeleteRangeRequest;

use crate::figures::CallKind;
use crate::retry::{Deadline, Failure};
use crate::routing::Router;
use crate::{Error, KeyRange};

/// # Errors
///
/// [`Error::InvalidArgument`] when the range is empty; [`Error::Undetermined`] also when a part was deleted and another
/// failed.
pub(crate) async fn delete_range(
    router: &Router,
    mut left: KeyRange,
    deadline: Deadline,
) -> Result<(), Error> {
    if left.is_empty() {
        let cause = "it is not above the start, so the range is empty; expected a range of at least one key";
        return Err(Error::invalid_argument("end_key", None, cause));
    }
    let mut retry = router.retry(deadline, CallKind::RawDeleteRange);
    loop {
        match delete_first_part(router, &left, deadline).await {
            Ok(None) => return retry.end(Ok(())),
            Ok(Some(rest)) => {
                retry.part_was_applied();
                left = rest;
            }
            Err(failure) => retry.next_attempt(failure).await?,
        }
    }
}

/// Deletes the part of the range that lies in the lowest region, and returns the rest.
async fn delete_first_part(
    router: &Router,
    range: &KeyRange,
    deadline: Deadline,
) -> Result<Option<KeyRange>, Failure> {
    let route = router.locate(&range.start, deadline).await?;
    let part = range.clamped(&route.region.start_key, &route.region.end_key);
    let request = RawDeleteRangeRequest {
        context: None,
        end_key: part.wire_end(),
        start_key: part.start,
    };
    router
        .attempt(&route, &range.start, request, deadline)
        .await?;
    Ok(range.above(&route.region.end_key))
}
