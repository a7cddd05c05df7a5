//! What a data directory keeps about starts: the starts of other stores that this store has met, whether the directory is outdated, and
//! by which election timeout this store may have promised something.
//!
//! The file `starts` has a line `own START`, a line `STORE START` for each other store, and a last line `sum CHECKSUM` with the CRC-32C of
//! all before it. Earlier releases wrote neither the first line nor the last, and ignore them. The store's own start is that of the last
//! incarnation, unless a release from before starts had numbers has since kept a random incarnation.
//!
//! The file `outdated` appears once another store has met a later start of this store than the directory knows of. It contains that
//! store's id. A directory with this file is refused: if it were served again, it might meet only stores that do not know better.
//!
//! The file `election-timeout` contains, in milliseconds, the longest election timeout by which this store may have promised a leader to
//! elect nobody else, and a last line as `starts` has one. A longer one is written before the store promises anything by it, and a shorter
//! one after the promises from before the start are over. Earlier releases know nothing of this file.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crc32c::crc32c;
use rdb_proto::transport::limits::CLOSE_TIMEOUT;
use rdb_raft::Timing;
use rdb_raft::transport::{STARTS_MAX, Starts};
use rdb_storage::replace_file;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::error::ServerError;

const FILE: &str = "starts";

const OUTDATED_FILE: &str = "outdated";

const TIMEOUT_FILE: &str = "election-timeout";

const OWN: &str = "own";

const SUM: &str = "sum";

/// Longest file: two numbers of 20 digits a line, the own start, and the checksum.
const FILE_BYTES_MAX: u64 = STARTS_MAX as u64 * 42 + 64;

/// What the file says: the own start, 0 if it does not, and those of others by store.
type Kept = (u64, BTreeMap<u64, u64>);

/// What the data directory has kept. `own` is the start of its incarnation. An unreadable file counts as one without starts: a start that
/// was never made would lock a store out.
pub(crate) fn open_starts(data_directory: &Path, own: u64) -> Arc<Starts> {
    let file = data_directory.join(FILE);
    let kept = read_file(&file).and_then(|kept| {
        read(&kept).map_err(|problem| io::Error::new(ErrorKind::InvalidData, problem))
    });
    let (kept_own, met) = kept.unwrap_or_else(|error| {
        if error.kind() != ErrorKind::NotFound {
            tracing::warn!(file = %file.display(), %error, "the starts of other stores are not known");
        }
        Kept::default()
    });
    Starts::new(own.max(kept_own), met, move |own, met| {
        replace_file(&file, format(own, met).as_bytes())
    })
}

/// Refuses a directory that is known to be outdated.
pub(crate) fn refuse_outdated(data_directory: &Path) -> Result<(), ServerError> {
    match fs::read_to_string(data_directory.join(OUTDATED_FILE)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        // The file alone decides; its content only names the store that said so.
        noted => {
            let by_store = noted.ok().and_then(|by_store| by_store.trim().parse().ok());
            let by_store = by_store.unwrap_or(0);
            Err(ServerError::Outdated { by_store })
        }
    }
}

/// Notes durably that the directory is outdated, as this store has said. A disk that hangs holds that up only for a while.
pub(crate) async fn note_outdated(data_directory: PathBuf, by_store: u64) {
    let file = data_directory.join(OUTDATED_FILE);
    let noting = spawn_blocking(move || replace_file(&file, format!("{by_store}\n").as_bytes()));
    let noted = match timeout(CLOSE_TIMEOUT, noting).await {
        Ok(Ok(noted)) => noted,
        Ok(Err(panic)) => Err(io::Error::other(panic)),
        Err(elapsed) => Err(elapsed.into()),
    };
    if let Err(error) = noted {
        tracing::warn!(%error, "that the data directory is outdated is not known to its next start");
    }
}

/// The longest election timeout by which this store may have promised something, in milliseconds. `own_ms` is that of this start. When this
/// returns, the result is kept.
pub(crate) fn promised_timeout_ms(data_directory: &Path, own_ms: u64) -> io::Result<u64> {
    let file = data_directory.join(TIMEOUT_FILE);
    let kept_ms = kept_timeout_ms(&file);
    let promised_ms = own_ms.max(match &kept_ms {
        Ok(kept_ms) => *kept_ms,
        Err(error) if error.kind() == ErrorKind::NotFound => 0,
        Err(error) => {
            tracing::warn!(file = %file.display(), %error, "the election timeout of the last start is taken to be the default");
            Timing::default().election_timeout_max_ms
        }
    });
    // One that cannot be read is replaced in any case.
    if kept_ms.ok() != Some(promised_ms) {
        keep_timeout(&file, promised_ms)?;
    }
    Ok(promised_ms)
}

/// Notes that this store keeps no promise any more by a longer election timeout than that of this start.
pub(crate) async fn forget_longer_timeout(data_directory: PathBuf, own_ms: u64) {
    let file = data_directory.join(TIMEOUT_FILE);
    let forgotten = spawn_blocking(move || match kept_timeout_ms(&file) {
        Ok(kept_ms) if kept_ms == own_ms => Ok(()),
        _ => keep_timeout(&file, own_ms),
    });
    if let Err(error) = forgotten
        .await
        .unwrap_or_else(|panic| Err(io::Error::other(panic)))
    {
        tracing::warn!(%error, "the next start waits by the election timeout from before this one");
    }
}

fn kept_timeout_ms(file: &Path) -> io::Result<u64> {
    let kept = read_file(file)?;
    let timeout_ms = kept.split_once('\n');
    let timeout_ms = timeout_ms.and_then(|(timeout_ms, _)| timeout_ms.parse::<u64>().ok());
    let timeout_ms = timeout_ms.filter(|&timeout_ms| format_timeout(timeout_ms) == kept);
    timeout_ms.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "it is damaged"))
}

fn keep_timeout(file: &Path, timeout_ms: u64) -> io::Result<()> {
    replace_file(file, format_timeout(timeout_ms).as_bytes())
}

fn format_timeout(timeout_ms: u64) -> String {
    with_sum(&format!("{timeout_ms}\n"))
}

fn read_file(file: &Path) -> io::Result<String> {
    let mut kept = String::new();
    let mut file = File::open(file)?.take(FILE_BYTES_MAX + 1);
    if file.read_to_string(&mut kept)? as u64 > FILE_BYTES_MAX {
        return Err(io::Error::new(ErrorKind::InvalidData, "it is too long"));
    }
    Ok(kept)
}

fn format(own: u64, met: &BTreeMap<u64, u64>) -> String {
    let lines = met.iter();
    let lines = lines.map(|(store_id, start)| format!("{store_id} {start}\n"));
    let own = std::iter::once(format!("{OWN} {own}\n"));
    with_sum(&own.chain(lines).collect::<String>())
}

fn with_sum(lines: &str) -> String {
    let sum = crc32c(lines.as_bytes());
    format!("{lines}{SUM} {sum:08x}\n")
}

/// The starts by store, or what is wrong.
fn read(kept: &str) -> Result<Kept, String> {
    let (mut own, mut met) = Kept::default();
    let mut bytes = 0;
    for (number, line) in kept.split_inclusive('\n').enumerate() {
        let unread = || format!("line {} cannot be read", number + 1);
        let ended = line.strip_suffix('\n').ok_or_else(unread)?;
        let (store_id, start) = ended.split_once(' ').ok_or_else(unread)?;
        if store_id == SUM {
            let sum = u32::from_str_radix(start, 16).map_err(|_| unread())?;
            let is_last = bytes + line.len() == kept.len();
            if !is_last || sum != crc32c(&kept.as_bytes()[..bytes]) {
                return Err("its checksum is another one".to_owned());
            }
            return Ok((own, met));
        }
        let parse = |text: &str| text.parse::<u64>().map_err(|_| unread());
        if store_id == OWN {
            own = parse(start)?;
        } else {
            met.insert(parse(store_id)?, parse(start)?);
        }
        bytes += line.len();
    }
    Ok((own, met))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> BTreeMap<u64, u64> {
        BTreeMap::from([(1, 5), (2, u64::MAX)])
    }

    #[test]
    fn golden_file() {
        let lines = "own 7\n1 5\n2 18446744073709551615\n";
        let kept = format!("{lines}sum {:08x}\n", crc32c(lines.as_bytes()));
        assert_eq!(format(7, &example()), kept);
        assert_eq!(read(&kept), Ok((7, example())));
        assert_eq!(read(""), Ok(Kept::default()));
        let earlier = read("1 5\n2 18446744073709551615\n");
        assert_eq!(earlier, Ok((0, example())), "of earlier releases");
    }

    #[test]
    fn a_file_with_any_change_knows_of_no_start() {
        let kept = format(7, &example());
        for place in 0..kept.len() {
            let mut damaged = kept.clone().into_bytes();
            damaged[place] ^= 1;
            let damaged = String::from_utf8(damaged).expect("it is still ASCII");
            assert!(read(&damaged).is_err(), "{damaged}");
        }
        assert!(read(&format!("{kept}3 7\n")).is_err());
    }

    #[tokio::test]
    async fn the_own_start_is_the_latest_that_was_ever_kept() {
        let directory = tempfile::tempdir().expect("the temporary directory can be written");
        let starts = open_starts(directory.path(), 5);
        starts.set_own(7).await;
        assert_eq!(
            open_starts(directory.path(), 3).own(),
            7,
            "of a random number"
        );
        assert_eq!(open_starts(directory.path(), 8).own(), 8);
    }

    #[test]
    fn the_file_is_bounded() {
        let met: BTreeMap<_, _> = (0..STARTS_MAX as u64)
            .map(|store| (u64::MAX - store, u64::MAX))
            .collect();
        assert!(format(u64::MAX, &met).len() as u64 <= FILE_BYTES_MAX);
        let directory = tempfile::tempdir().expect("the temporary directory can be written");
        let file = directory.path().join(FILE);
        fs::write(&file, " ".repeat(FILE_BYTES_MAX as usize + 1)).expect("written");
        let refused = read_file(&file).expect_err("too long");
        assert_eq!(refused.kind(), ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn the_longest_timeout_counts_until_what_was_promised_by_it_is_over() {
        let directory = tempfile::tempdir().expect("the temporary directory can be written");
        let starts = |own_ms| promised_timeout_ms(directory.path(), own_ms).expect("written");
        assert_eq!(starts(3000), 3000);
        assert_eq!(starts(500), 3000);
        assert_eq!(starts(500), 3000, "if that start ended too early");
        forget_longer_timeout(directory.path().to_owned(), 500).await;
        assert_eq!(starts(400), 500);
        assert_eq!(starts(700), 700);
        assert_eq!(starts(500), 700);
        let file = directory.path().join(TIMEOUT_FILE);
        fs::write(&file, [0xff]).expect("written");
        assert_eq!(starts(500), 3000, "if it cannot be read");
        let kept_ms = kept_timeout_ms(&file);
        assert_eq!(kept_ms.expect("it is written anew"), 3000);
    }

    #[test]
    fn an_election_timeout_with_any_change_is_not_read() {
        let directory = tempfile::tempdir().expect("the temporary directory can be written");
        let file = directory.path().join(TIMEOUT_FILE);
        let kept = format_timeout(30_000);
        let sum = crc32c(b"30000\n");
        assert_eq!(kept, format!("30000\nsum {sum:08x}\n"));
        for place in 0..kept.len() {
            let mut damaged = kept.clone();
            damaged.replace_range(place..=place, "");
            fs::write(&file, &damaged).expect("written");
            let refused = kept_timeout_ms(&file).expect_err(&damaged);
            assert_eq!(refused.kind(), ErrorKind::InvalidData);
        }
        fs::write(&file, &kept).expect("written");
        assert_eq!(kept_timeout_ms(&file).expect("it is whole"), 30_000);
    }

    #[tokio::test]
    async fn a_directory_that_is_known_to_be_outdated_is_refused() {
        let directory = tempfile::tempdir().expect("the temporary directory can be written");
        assert!(refuse_outdated(directory.path()).is_ok());
        note_outdated(directory.path().to_owned(), 3).await;
        let refused = refuse_outdated(directory.path());
        assert!(
            matches!(refused, Err(ServerError::Outdated { by_store: 3 })),
            "{refused:?}"
        );
        fs::write(directory.path().join(OUTDATED_FILE), [0xff]).expect("written");
        assert!(
            refuse_outdated(directory.path()).is_err(),
            "whatever it says"
        );
    }
}
