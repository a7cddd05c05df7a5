//! `rdb-pd`: runs FlareDB's placement driver until it is asked to stop.

use std::process::ExitCode;

use rdb_pd::{Config, Pd};
use rdb_proto::transport::{process, settings};

fn main() -> ExitCode {
    let config: Config = settings::read(Config::validate);
    let flags = config.serve.clone();
    flags.run("rdb-pd", async |termination| {
        process::serve(Pd::start(config), termination).await
    })
}
