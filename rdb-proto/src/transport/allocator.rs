//! Giving freed memory back to the system.
//!
//! glibc maps large blocks one by one and returns each as soon as it is freed. But with every larger block that is freed it
//! raises the size from which it does so, up to 32 MiB; from then on the buffers of large values come from its heaps, and a
//! process that once held its whole budget for requests and answers keeps that memory. Setting the size by hand stops it
//! from being raised. That takes an environment variable set before the start, since the call for it is unsafe.
//!
//! The same variable asks for huge pages, where Linux leaves that to programs. Every put looks for its place among the keys in
//! memory, one random access after the other, and with pages of 4 KiB most of them miss the TLB.

/// Blocks of 1 MiB and more are mapped: buffers of large values, which cost far more than the mapping. Smaller ones, such as
/// messages of many commands, come from the heaps, which keep up to 2 MiB free at their end.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const TUNABLES: &str = "glibc.malloc.mmap_threshold=1048576:glibc.malloc.trim_threshold=2097152:glibc.malloc.hugetlb=1";

/// Starts the program of this process anew under the same process id, once, with the allocator set as above. An operator's
/// own settings are left alone. Returns when that is done or cannot be done.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(super) fn set_up() {
    use std::env;
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    const VARIABLE: &str = "GLIBC_TUNABLES";
    let is_set = |name| env::var_os(name).is_some();
    if is_set(VARIABLE) || is_set("MALLOC_MMAP_THRESHOLD_") {
        return;
    }
    let Ok(program) = env::current_exe() else {
        return;
    };
    let mut arguments = env::args_os();
    let mut command = Command::new(&program);
    command.arg0(arguments.next().unwrap_or_else(|| program.into()));
    // Returns only if it fails; the process then goes on as it is.
    let _error = command.args(arguments).env(VARIABLE, TUNABLES).exec();
}

/// Other allocators are left as they are.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(super) fn set_up() {}
