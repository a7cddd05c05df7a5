//! `rdbctl region check`: whether the replicas of a region hold the same data.

use std::collections::BTreeMap;

use bytes::Bytes;
use rdb_client::{RegionCheck, ReplicaCheck, ReplicaOutcome};
use serde::Serialize;

use super::regions;
use crate::encoding::{KeyEncoding, escape};
use crate::failure::Failure;
use crate::output::{Output, Record, Row, cell};
use crate::session::Session;

pub(super) const AFTER_HELP: &str = "\
Each replica sums up all its keys with their values and versions, at one
position of the region's log (INDEX), while reads and writes go on. Regions are
checked one after the other, and each is printed when it is done. Exit code 0
only when all replicas of each region gave the same checksum; 1 otherwise.
Do not run it while a store runs an earlier release: that store ends.

STATUS:
  equal        the same as the others
  differs      not the checksum that most replicas have; every one if none is
               that of most
  not_reached  it did not apply its log up to the position within --timeout
  no_answer    it gave no checksum; CAUSE says why. Reading may take long: the
               time counts from when it last said that it had read on

Examples:
  rdbctl region check
  rdbctl region check --id 1 --timeout 1m -o json";

pub(super) async fn run(
    id: Option<u64>,
    session: &Session,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let client = session.connect().await?;
    let mut findings = Vec::new();
    for route in regions(&client, id).await? {
        match client.check_region(&route).await {
            Ok(check) => {
                let lines = lines_of(&check);
                output.table(&lines)?;
                output.flush()?;
                findings.extend(lines.iter().filter_map(Line::finding));
            }
            Err(error) => findings.push(format!("region {}: {error}", route.region.id)),
        }
    }
    if findings.is_empty() {
        return Ok(());
    }
    Err(Failure::failed(findings.join("; ")))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    Equal,
    Differs,
    NotReached,
    NoAnswer,
}

impl Status {
    fn name(self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::Differs => "differs",
            Self::NotReached => "not_reached",
            Self::NoAnswer => "no_answer",
        }
    }
}

#[derive(Debug, Serialize)]
struct Line {
    region_id: u64,
    index: u64,
    term: u64,
    peer_id: u64,
    store_id: u64,
    address: Option<String>,
    status: Status,
    checksum: Option<String>,
    key_count: Option<u64>,
    bytes: Option<u64>,
    /// Why there is no checksum.
    cause: Option<String>,
}

/// One for each replica.
fn lines_of(check: &RegionCheck) -> Vec<Line> {
    let digests = check.replicas.iter();
    let digests = digests.filter_map(|replica| match &replica.outcome {
        ReplicaOutcome::Checksum { digest, .. } => Some(digest),
        _ => None,
    });
    let common = most_common(digests);
    let line = |replica: &ReplicaCheck| {
        let mut line = Line {
            region_id: check.region_id,
            index: check.index,
            term: check.term,
            peer_id: replica.peer_id,
            store_id: replica.store_id,
            address: replica.address.clone(),
            status: Status::NoAnswer,
            checksum: None,
            key_count: None,
            bytes: None,
            cause: None,
        };
        match &replica.outcome {
            ReplicaOutcome::Checksum {
                digest,
                key_count,
                bytes,
            } => {
                line.status = if common == Some(digest) {
                    Status::Equal
                } else {
                    Status::Differs
                };
                line.checksum = Some(digest.iter().map(|byte| format!("{byte:02x}")).collect());
                line.key_count = Some(*key_count);
                line.bytes = Some(*bytes);
            }
            ReplicaOutcome::NotReached { applied_index } => {
                line.status = Status::NotReached;
                line.cause = Some(format!(
                    "it has applied its log up to index {applied_index}"
                ));
            }
            ReplicaOutcome::NoChecksum { cause } => line.cause = Some(cause.clone()),
            _ => line.cause = Some("its answer is not known to this release".to_owned()),
        }
        line
    };
    check.replicas.iter().map(line).collect()
}

/// The digest that more replicas have than any other.
fn most_common<'a>(digests: impl Iterator<Item = &'a Bytes>) -> Option<&'a Bytes> {
    let mut counts = BTreeMap::<&Bytes, usize>::new();
    for digest in digests {
        *counts.entry(digest).or_default() += 1;
    }
    let most = counts.values().copied().max()?;
    let mut common = counts.iter().filter(|(_, count)| **count == most);
    let (digest, _) = common.next()?;
    common.next().is_none().then_some(*digest)
}

impl Line {
    /// What is wrong, if something is.
    fn finding(&self) -> Option<String> {
        let what = match self.status {
            Status::Equal => return None,
            Status::Differs => "differs",
            Status::NotReached => "did not reach the position of the check",
            Status::NoAnswer => "gave no checksum",
        };
        Some(format!(
            "region {}: store {} {what}",
            self.region_id, self.store_id
        ))
    }
}

impl Row for Line {
    const HEADINGS: &[&str] = &[
        "REGION", "INDEX", "STORE", "ADDRESS", "STATUS", "KEYS", "BYTES", "CHECKSUM", "CAUSE",
    ];
}

impl Record for Line {
    fn cells(&self, _: KeyEncoding) -> Vec<String> {
        vec![
            self.region_id.to_string(),
            self.index.to_string(),
            self.store_id.to_string(),
            cell(self.address.clone()),
            self.status.name().to_owned(),
            cell(self.key_count.map(|count| count.to_string())),
            cell(self.bytes.map(|bytes| bytes.to_string())),
            cell(self.checksum.clone()),
            cell(self.cause.as_deref().map(|cause| escape(cause.as_bytes()))),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_replicas_that_differ_are_those_without_the_checksum_of_most() {
        let common = |digests: &'static [&'static str]| {
            let digests: Vec<_> = digests.iter().map(|digest| Bytes::from(*digest)).collect();
            most_common(digests.iter()).cloned()
        };
        assert_eq!(common(&["a"]), Some("a".into()));
        assert_eq!(common(&["a", "b", "b"]), Some("b".into()));
        for undecided in [
            &[][..],
            &["a", "b"],
            &["a", "b", "c"],
            &["a", "a", "b", "b"],
        ] {
            assert_eq!(common(undecided), None, "{undecided:?}");
        }
    }
}
