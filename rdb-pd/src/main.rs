//! `rdb-pd`: runs FlareDB's placement driver until it is asked to stop.

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use rdb_pd::{Config, Pd};
use rdb_proto::transport::termination_signal;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let config = Config::parse();
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rdb-pd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(config: Config) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.log_level).with_context(|| {
        format!(
            "--log-level {:?} is not understood; e.g. info, debug or warn,rocksdb=debug",
            config.log_level
        )
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();

    let pd = Pd::start(config).await?;
    let drain = pd.drain_token();
    tokio::spawn(async move {
        match termination_signal().await {
            Ok(()) => tracing::info!("asked to stop: draining"),
            Err(error) => tracing::error!(%error, "signals cannot be received: stopping"),
        }
        drain.cancel();
    });
    Ok(pd.wait().await?)
}
