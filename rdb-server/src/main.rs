//! `rdb-server`: runs a FlareDB store until it is asked to stop.

use std::process::ExitCode;

use rdb_proto::transport::{process, settings};
use rdb_server::{Config, Server};

fn main() -> ExitCode {
    let config: Config = settings::read(Config::validate);
    let log_filter = config.serve.log_level.clone();
    process::run("rdb-server", log_filter, async |termination| {
        if config.repair_wal {
            return Server::repair_wal(config).await;
        }
        process::serve(Server::start(config), termination).await
    })
}
