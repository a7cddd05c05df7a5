//! `rdb-pd`: runs FlareDB's placement driver until it is asked to stop.

use std::process::ExitCode;

use clap::Parser;
use rdb_pd::{Config, Pd};
use rdb_proto::transport::{process, raise_open_files_limit};

fn main() -> ExitCode {
    let config = Config::parse();
    let log_level = config.log_level.clone();
    process::run("rdb-pd", &log_level, async {
        raise_open_files_limit(config.connections_max);
        process::serve(Pd::start(config)).await
    })
}
