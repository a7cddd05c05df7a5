//! Clearing up, also when the tests are killed.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Ends the processes that use the directory of a run, and removes the directory, its mounts, the namespaces and the bridge: when
/// it is dropped, or when this process is gone.
#[derive(Debug)]
pub(crate) struct Janitor {
    shell: Child,
    directory: PathBuf,
}

/// Waits until standard input is closed. The arguments are the directory, a bridge, and namespaces. The names of links begin with
/// that of the bridge.
const CLEAR_UP: &str = r#"
trap '' HUP INT TERM
read -r _
directory=$1 bridge=$2
shift 2
for process in /proc/[0-9]*; do
  if [ "$process" != "/proc/$$" ] && grep -aqF "$directory/" "$process/cmdline"; then
    kill -KILL "${process#/proc/}"
  fi
done
for namespace in "$@"; do
  ip netns delete "$namespace"
done
# A namespace can live on for a while by the connections of processes that were killed.
ip -brief link | while IFS=' @' read -r link _; do
  case $link in
    "$bridge"*) ip link delete "$link" ;;
  esac
done
for mounted in "$directory"/*; do
  umount --lazy "$mounted"
done
rm -rf "$directory"
"#;

impl Janitor {
    /// Makes the directory, and clears up after it, the bridge and the namespaces, whether they are there or not.
    pub(crate) fn engage(bridge: &str, namespaces: &[String]) -> Self {
        let directory = tempfile::Builder::new().prefix("flaredb-faults.").tempdir();
        let directory = directory
            .expect("the temporary directory can be written")
            .keep();
        let shell = Command::new("sh")
            .args(["-c", CLEAR_UP, "janitor"])
            .arg(&directory)
            .arg(bridge)
            .args(namespaces)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A signal to the tests is none to it.
            .process_group(0)
            .spawn();
        Self {
            shell: shell.expect("there is a shell"),
            directory,
        }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        // There is nobody to tell if it fails.
        let _ = self.shell.wait();
    }
}
