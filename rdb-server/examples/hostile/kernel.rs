//! What a process has of memory and has read from the disk, as the kernel counts it.

use std::fs;

use anyhow::{Context, ensure};

/// Resident now, in bytes.
pub(crate) fn resident(process: u32) -> anyhow::Result<u64> {
    status_bytes(process, "VmRSS:")
}

/// The most that was resident since [`forget_peak`], in bytes.
pub(crate) fn peak(process: u32) -> anyhow::Result<u64> {
    status_bytes(process, "VmHWM:")
}

/// Lets the peak begin at what is resident now.
pub(crate) fn forget_peak(process: u32) -> anyhow::Result<()> {
    fs::write(format!("/proc/{process}/clear_refs"), "5")
        .context("the kernel does not reset the peak")
}

/// Read from the disk since the process has started, in bytes.
pub(crate) fn read_from_disk(process: u32) -> anyhow::Result<u64> {
    number(process, "io", "read_bytes:")
}

fn status_bytes(process: u32, field: &str) -> anyhow::Result<u64> {
    let kib = number(process, "status", field)?;
    ensure!(kib > 0, "the process has ended");
    Ok(kib << 10)
}

fn number(process: u32, file: &str, field: &str) -> anyhow::Result<u64> {
    let lines = fs::read_to_string(format!("/proc/{process}/{file}"));
    let lines = lines.context("the process has ended")?;
    let line = lines.lines().find_map(|line| line.strip_prefix(field));
    let number = line.with_context(|| format!("/proc says nothing of {field}"))?;
    Ok(number.trim().trim_end_matches(" kB").parse()?)
}
