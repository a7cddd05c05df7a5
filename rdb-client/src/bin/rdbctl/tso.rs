//! `rdbctl tso`: timestamps of the placement driver's oracle.

use rdb_client::Timestamp;
use serde::Serialize;

use crate::arguments::whole;
use crate::encoding::KeyEncoding;
use crate::failure::Failure;
use crate::output::{Output, Record};
use crate::session::Session;

#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Prints one timestamp per line, ascending. Each is greater than every one that
was handed out before it: 46 bits of Unix milliseconds, 18 bits of counter.

Examples:
  rdbctl tso
  rdbctl tso --count 3 --output json    {\"timestamp\":\"…\",\"physical_ms\":…,\"logical\":…} per line")]
pub(crate) struct TsoArguments {
    /// How many consecutive timestamps to take, 1 to 65,536
    #[arg(short, long, value_name = "N", default_value = "1", value_parser = whole(1..=65_536u32))]
    count: u32,
}

pub(crate) async fn run(
    arguments: &TsoArguments,
    session: &Session,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let client = session.connect().await?;
    let timestamps = client.tso_batch(arguments.count).await?;
    timestamps
        .into_iter()
        .try_for_each(|timestamp| output.record(&Line::from(timestamp)))
}

#[derive(Serialize)]
struct Line {
    timestamp: String,
    physical_ms: u64,
    logical: u32,
}

impl From<Timestamp> for Line {
    fn from(timestamp: Timestamp) -> Self {
        Self {
            timestamp: timestamp.to_string(),
            physical_ms: timestamp.physical_ms(),
            logical: timestamp.logical(),
        }
    }
}

impl Record for Line {
    fn cells(&self, _: KeyEncoding) -> Vec<String> {
        vec![self.timestamp.clone()]
    }
}
