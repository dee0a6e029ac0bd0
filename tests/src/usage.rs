//! Resource usage of processes, from `/proc`.

use std::{fs, time::Duration};

use anyhow::Context as _;

/// Unit of CPU times in `/proc`: hundredths of a second, independent of the kernel's tick.
const TICK: Duration = Duration::from_millis(10);

/// User and system CPU time of a process and its descendants: running ones, and ended ones that were waited for.
///
/// # Errors
/// If the process has ended.
pub fn cpu(pid: i32) -> anyhow::Result<Duration> {
    let mut ticks = 0;
    let mut open = vec![pid];
    while let Some(next) = open.pop() {
        match own_ticks(next) {
            Ok(own) => ticks += own,
            Err(error) if next == pid => return Err(error),
            // The times of a child that has just ended are included in its parent's.
            Err(_) => {}
        }
        open.extend(children(next));
    }
    Ok(TICK * ticks)
}

/// Current and peak resident memory of a process, in bytes.
///
/// # Errors
/// If the process has ended.
pub fn memory(pid: i32) -> anyhow::Result<(u64, u64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the process has ended")?;
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).context("the process ends")?;
        let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().with_context(|| format!("reading {line}"))?;
        anyhow::Ok(kib * 1024)
    };
    Ok((bytes("VmRSS:")?, bytes("VmHWM:")?))
}

fn own_ticks(pid: i32) -> anyhow::Result<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid} has ended"))?;
    // The name, in brackets, may hold anything. User and system time are the 12th and 13th field after it, and those of
    // the children that were waited for the next two.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: Vec<u32> = fields.skip(11).take(4).map(str::parse).collect::<Result<_, _>>()?;
    anyhow::ensure!(ticks.len() == 4, "cannot read /proc/{pid}/stat: {stat}");
    Ok(ticks.iter().sum())
}

fn children(pid: i32) -> Vec<i32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists = tasks.flatten().map(|task| fs::read_to_string(task.path().join("children")).unwrap_or_default());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}
