//! A cluster whose store has its disk answer when the test says so.

use std::fs;

use crate::harness::Cluster;
use crate::shim::{Shim, ShimLibrary};

/// The cluster, of which nothing runs yet, and what holds the disk of its store. `None` where there is no C compiler.
pub(crate) fn prepare() -> Option<(Cluster, Shim)> {
    let mut cluster = Cluster::prepare();
    // The shim sees paths without links.
    let place = fs::canonicalize(cluster.directory.path()).expect("it is there");
    let library = ShimLibrary::compile(&place)?;
    let shim = Shim::of(&place.join("store"));
    for (name, value) in shim.environment(&library, 1.0) {
        cluster.store.set_environment(name, value);
    }
    Some((cluster, shim))
}
