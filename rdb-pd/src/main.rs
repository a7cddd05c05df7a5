//! `rdb-pd`: runs FlareDB's placement driver until it is asked to stop.

use rdb_pd::{Config, Pd};
use rdb_proto::transport::{process, settings};
use tikv_jemallocator::Jemalloc;

/// It gives back to the system what it has freed, also when a few blocks between are still in use. glibc's keeps that for good.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ! {
    let config: Config = settings::read(Config::validate);
    let flags = config.serve.clone();
    flags.run("rdb-pd", async |termination| {
        process::serve(Pd::start(config), termination).await
    })
}
