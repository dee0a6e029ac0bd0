//! Resource usage of processes, from `/proc`.

use std::time::Duration;

use anyhow::Context as _;
use procfs::process::Process;

/// User and system CPU time of a process and its descendants: running ones, and ended ones that were waited for.
///
/// # Errors
/// If the process has ended.
pub fn cpu(pid: i32) -> anyhow::Result<Duration> {
    let own = cpu_with_ended_children(pid).with_context(|| format!("process {pid} has ended"))?;
    // The times of a child that has just ended are included in its parent's.
    Ok(own + descendants(pid).into_iter().filter_map(|pid| cpu_with_ended_children(pid).ok()).sum())
}

/// User and system CPU time of a process without its children.
///
/// # Errors
/// If the process has ended.
pub fn own_cpu(pid: i32) -> anyhow::Result<Duration> {
    let stat = Process::new(pid)?.stat()?;
    duration(stat.utime + stat.stime)
}

/// Current and peak resident memory of a process, in bytes.
///
/// # Errors
/// If the process has ended.
pub fn memory(pid: i32) -> anyhow::Result<(u64, u64)> {
    let status = Process::new(pid)?.status().with_context(|| format!("process {pid} has ended"))?;
    let bytes = |kib: Option<u64>| kib.map(|kib| kib * 1024).with_context(|| format!("process {pid} ends"));
    Ok((bytes(status.vmrss)?, bytes(status.vmhwm)?))
}

/// The processes that a process and its descendants have started, and that have not ended.
pub(super) fn descendants(pid: i32) -> Vec<i32> {
    let mut found = Vec::new();
    let mut open = vec![pid];
    while let Some(pid) = open.pop() {
        let children = children(pid);
        open.extend(&children);
        found.extend(children);
    }
    found
}

/// Whether a process runs; a zombie has ended and only waits for its parent.
pub(super) fn is_alive(pid: i32) -> bool {
    let stat = Process::new(pid).and_then(|process| process.stat());
    stat.is_ok_and(|stat| stat.state != 'Z')
}

/// Empty if the process has ended.
fn children(pid: i32) -> Vec<i32> {
    let tasks = Process::new(pid).and_then(|process| process.tasks());
    let children = tasks.into_iter().flatten().flatten().filter_map(|task| task.children().ok()).flatten();
    children.filter_map(|pid| i32::try_from(pid).ok()).collect()
}

fn cpu_with_ended_children(pid: i32) -> anyhow::Result<Duration> {
    let stat = Process::new(pid)?.stat()?;
    duration(stat.utime + stat.stime + u64::try_from(stat.cutime + stat.cstime)?)
}

fn duration(ticks: u64) -> anyhow::Result<Duration> {
    Ok(Duration::from_secs(1) * u32::try_from(ticks)? / u32::try_from(procfs::ticks_per_second())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_memory_and_cpu_time_and_its_child_is_a_descendant() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(cpu(own).unwrap() >= own_cpu(own).unwrap());
        let (current, peak) = memory(own).unwrap();
        assert!(current > 1 << 20 && peak >= current, "{current} {peak}");
        let before = own_cpu(own).unwrap();
        while own_cpu(own).unwrap() == before {
            std::hint::black_box((0..100_000).sum::<u64>());
        }
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        assert!(is_alive(pid) && descendants(own).contains(&pid));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!is_alive(pid) && !descendants(own).contains(&pid) && memory(pid).is_err());
    }
}
