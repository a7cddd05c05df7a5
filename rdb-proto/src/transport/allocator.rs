//! How the process takes memory from the system and gives it back. Both allocators are set up by environment variables before the start: the
//! calls for it are unsafe.
//!
//! RocksDB has glibc's, which maps large blocks one by one and returns each as soon as it is freed. But with every larger block that is freed
//! it raises the size from which it does so, up to 32 MiB; from then on large blocks come from its heaps, which keep what they once had.
//! Setting the size by hand stops it from being raised. The same variable asks for huge pages, where Linux leaves that to programs. Every put
//! looks for its place among the keys in memory, one random access after the other, and with pages of 4 KiB most of them miss the TLB.
//!
//! What is written in Rust has jemalloc, which gives back what has not been used for a while.

/// Blocks of 1 MiB and more are mapped: blocks of keys in memory, and large values, which cost far more than the mapping. Smaller ones
/// come from the heaps, which keep up to 2 MiB free at their end.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const OF_GLIBC: (&str, &str) = (
    "GLIBC_TUNABLES",
    "glibc.malloc.mmap_threshold=1048576:glibc.malloc.trim_threshold=2097152:glibc.malloc.hugetlb=1",
);

/// For a second instead of ten, which adds to the memory that peers can make the process hold at the same time.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const OF_JEMALLOC: (&str, &str) = ("_RJEM_MALLOC_CONF", "dirty_decay_ms:1000");

/// Starts the program of this process anew under the same process id, once, with the allocators set as above. An operator's
/// own settings are left alone. Returns when that is done or cannot be done.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(super) fn set_up() {
    use std::env;
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    let is_set = |name: &str| env::var_os(name).is_some();
    let has_own = |&(name, _): &(&str, &str)| {
        is_set(name) || (name == OF_GLIBC.0 && is_set("MALLOC_MMAP_THRESHOLD_"))
    };
    let mut settings = vec![OF_GLIBC, OF_JEMALLOC];
    settings.retain(|setting| !has_own(setting));
    if settings.is_empty() {
        return;
    }
    let Ok(program) = env::current_exe() else {
        return;
    };
    let mut arguments = env::args_os();
    let mut command = Command::new(&program);
    command.arg0(arguments.next().unwrap_or_else(|| program.into()));
    // Returns only if it fails; the process then goes on as it is.
    let _error = command.args(arguments).envs(settings).exec();
}

/// Other allocators are left as they are.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(super) fn set_up() {}
