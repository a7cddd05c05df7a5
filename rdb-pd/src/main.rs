//! `rdb-pd`: runs FlareDB's placement driver until it is asked to stop.

use std::process::ExitCode;

use rdb_pd::{Config, Pd};
use rdb_proto::transport::{process, settings};

fn main() -> ExitCode {
    let config: Config = settings::read(Config::validate);
    let log_filter = config.serve.log_level.clone();
    process::run("rdb-pd", log_filter, async |mut termination| {
        if config.serve.tls_cert.is_some() {
            // It has the certificates read again.
            termination.leave_hang_up();
        }
        process::serve(Pd::start(config), termination).await
    })
}
