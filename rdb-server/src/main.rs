//! `rdb-server`: runs a FlareDB store until it is asked to stop.

use rdb_proto::transport::{process, settings};
use rdb_server::{Config, Server};
use tikv_jemallocator::Jemalloc;

/// It gives back to the system what it has freed, also when a few blocks between are still in use. glibc's keeps that for good.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ! {
    let config: Config = settings::read(Config::validate);
    let flags = config.serve.clone();
    flags.run("rdb-server", async |termination| {
        if config.repair_wal {
            return Server::repair_wal(config).await;
        }
        process::serve(Server::start(config), termination).await
    })
}
