//! Where the starts of other stores that this one has met are kept: a file of the data directory.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use rdb_raft::transport::Starts;
use rdb_storage::replace_file;

/// The file: a line `STORE START` for each store.
const FILE: &str = "starts";

/// What the data directory has kept, and the start of this store. A file that cannot be read is one that knows of no start.
pub(crate) fn open_starts(data_directory: &Path, own: u64) -> Arc<Starts> {
    let file = data_directory.join(FILE);
    let kept = fs::read_to_string(&file).unwrap_or_else(|error| {
        if error.kind() != ErrorKind::NotFound {
            tracing::warn!(file = %file.display(), %error, "the starts of other stores are not known");
        }
        String::new()
    });
    let met = kept.lines().filter_map(|line| {
        let (store_id, start) = line.split_once(' ')?;
        Some((store_id.parse().ok()?, start.parse().ok()?))
    });
    Starts::new(own, met.collect(), move |met: &BTreeMap<u64, u64>| {
        let lines = met.iter();
        let lines = lines.map(|(store_id, start)| format!("{store_id} {start}\n"));
        replace_file(&file, lines.collect::<String>().as_bytes())
    })
}
