//! `rdb-server`: runs a FlareDB store until it is asked to stop.

use std::process::ExitCode;

use rdb_proto::transport::{process, settings};
use rdb_server::{Config, Server};

fn main() -> ExitCode {
    let config: Config = settings::read(Config::validate);
    let log_filter = config.serve.log_level.clone();
    process::run("rdb-server", log_filter, async |mut termination| {
        if config.repair_wal {
            return Server::repair_wal(config).await;
        }
        if config.serve.tls_cert.is_some() {
            // It has the certificates read again.
            termination.leave_hang_up();
        }
        process::serve(Server::start(config), termination).await
    })
}
