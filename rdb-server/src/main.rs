//! `rdb-server`: runs a FlareDB store until it is asked to stop.

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use rdb_proto::transport::limits::EXIT_TIMEOUT;
use rdb_proto::transport::{Termination, raise_open_files_limit};
use rdb_server::{Config, Server};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let config = Config::parse();
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rdb-server: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(config: Config) -> anyhow::Result<()> {
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

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let ended = runtime.block_on(serve(config));
    runtime.shutdown_timeout(EXIT_TIMEOUT);
    ended
}

async fn serve(config: Config) -> anyhow::Result<()> {
    if config.repair_wal {
        return Ok(Server::repair_wal(config).await?);
    }
    raise_open_files_limit(config.connections_max);
    let mut termination = Termination::install()?;
    let server = tokio::select! {
        started = Server::start(config) => started?,
        () = termination.requested() => {
            tracing::info!("asked to stop while starting");
            return Ok(());
        }
    };
    let drain = server.drain_token();
    let draining = async {
        termination.requested().await;
        tracing::info!("asked to stop: draining");
        drain.cancel();
        std::future::pending().await
    };
    tokio::select! {
        ended = server.wait() => Ok(ended?),
        never = draining => never,
    }
}
