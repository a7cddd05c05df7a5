//! `rdb-server`: runs a FlareDB store until it is asked to stop.

use std::process::ExitCode;

use clap::Parser;
use rdb_proto::transport::{process, raise_open_files_limit};
use rdb_server::{Config, Server};

fn main() -> ExitCode {
    let config = Config::parse();
    let log_level = config.log_level.clone();
    process::run("rdb-server", &log_level, async {
        if config.repair_wal {
            return Ok(Server::repair_wal(config).await?);
        }
        raise_open_files_limit(config.connections_max);
        process::serve(Server::start(config)).await
    })
}
