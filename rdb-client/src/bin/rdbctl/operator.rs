//! `rdbctl operator …`: steps that an operator has the cluster take.

use std::fmt;

use clap::Subcommand;
use serde::Serialize;

use crate::arguments::whole;
use crate::failure::Failure;
use crate::output::Output;
use crate::region::regions;
use crate::session::Session;

#[derive(Debug, Subcommand)]
pub(crate) enum OperatorCommand {
    /// Have a store lead a region, and wait until it does
    #[command(after_help = "\
The store needs a replica of the region, and must not be silent. Reads and writes
of the region wait meanwhile; clients follow by themselves. `region list` shows
it with the store's next heartbeat.

Example:
  rdbctl operator transfer-leader --region 1 --to 2")]
    TransferLeader {
        /// The region's id
        #[arg(long, value_name = "N", value_parser = whole(1u64..))]
        region: u64,
        /// The id of the store that is to lead
        #[arg(long, value_name = "STORE", value_parser = whole(1u64..))]
        to: u64,
    },
}

pub(crate) async fn run(
    command: OperatorCommand,
    session: &Session,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let client = session.connect().await?;
    match command {
        OperatorCommand::TransferLeader { region, to } => {
            for route in regions(&client, Some(region)).await? {
                let term = client.transfer_leader(&route, to).await?;
                output.event(&Leads {
                    store_id: to,
                    region_id: region,
                    term,
                })?;
            }
            Ok(())
        }
    }
}

#[derive(Serialize)]
struct Leads {
    store_id: u64,
    region_id: u64,
    term: u64,
}

impl fmt::Display for Leads {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            store_id,
            region_id,
            term,
        } = self;
        write!(
            formatter,
            "store {store_id} leads region {region_id} in term {term}"
        )
    }
}
