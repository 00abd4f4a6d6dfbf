//! What the kernel knows: a process's CPU time and memory, and how much memory is left.

use std::fs::read_to_string;

use anyhow::{Context, Result};
use nix::sys::time::TimeValLike;
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;

/// CPU time of a process so far, in nanoseconds, with that of its threads which have ended.
pub(crate) fn cpu_nanoseconds(pid: u32) -> Result<u64> {
    let time =
        i32::try_from(pid).map_err(anyhow::Error::from).and_then(|pid| Ok(clock_getcpuclockid(Pid::from_raw(pid))?.now()?));
    Ok(time.with_context(|| format!("process {pid} has ended"))?.num_nanoseconds() as u64)
}

/// Its share of the memory that it uses, in bytes: pages that several processes map are divided among them.
pub(crate) fn pss_bytes(pid: u32) -> Result<u64> {
    field(pid, "smaps_rollup", "Pss:")
}

/// The most memory that it has had present at once, in bytes.
pub(crate) fn peak_rss_bytes(pid: u32) -> Result<u64> {
    field(pid, "status", "VmHWM:")
}

/// Whether a signal has stopped it, and none has continued it.
pub(crate) fn is_stopped(pid: u32) -> bool {
    let stat = read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|state| state.trim_start().starts_with('T'))
}

/// Says so where fewer than `needed` bytes of memory are left.
pub(crate) fn check_memory(needed: u64) -> Result<(), String> {
    let text = read_to_string("/proc/meminfo").unwrap_or_default();
    let available = text.lines().find_map(|line| first(line.strip_prefix("MemAvailable:")?)).map(|kibibytes| kibibytes << 10);
    match available {
        Some(available) if available < needed => {
            let [needed, available] = [needed, available].map(|bytes| bytes.div_ceil(1 << 20));
            Err(format!("--bytes: about {needed} MiB of memory are needed, {available} MiB are left; give fewer bytes or peers"))
        }
        _ => Ok(()),
    }
}

fn field(pid: u32, file: &str, name: &str) -> Result<u64> {
    let path = format!("/proc/{pid}/{file}");
    let text = read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let kibibytes = text.lines().find_map(|line| first(line.strip_prefix(name)?));
    Ok(kibibytes.with_context(|| format!("{path} has no {name}"))? << 10)
}

fn first(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_touched_shows() {
        let me = std::process::id();
        let before = pss_bytes(me).unwrap();
        let touched = vec![1_u8; 64 << 20];
        assert!(pss_bytes(me).unwrap() >= before + (48 << 20));
        assert!(peak_rss_bytes(me).unwrap() >= touched.len() as u64);
    }

    #[test]
    fn a_case_that_does_not_fit_the_memory_is_refused() {
        check_memory(1 << 20).unwrap();
        assert!(check_memory(1 << 50).unwrap_err().contains("give fewer bytes or peers"));
    }

    #[test]
    fn work_takes_time_and_a_process_that_is_not_there_has_none() {
        let me = std::process::id();
        let before = cpu_nanoseconds(me).unwrap();
        while cpu_nanoseconds(me).unwrap() == before {
            std::hint::black_box((0..100_000).fold(0_u64, u64::wrapping_add));
        }
        assert!(cpu_nanoseconds(u32::MAX).is_err());
    }

    #[test]
    fn what_a_thread_has_used_counts_when_it_has_ended() {
        let me = std::process::id();
        let before = cpu_nanoseconds(me).unwrap();
        let used = std::thread::spawn(|| {
            let mine = || std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
            while first(&mine()).unwrap() < 20_000_000 {
                std::hint::black_box((0..100_000).fold(0_u64, u64::wrapping_add));
            }
            first(&mine()).unwrap()
        });
        let used = used.join().unwrap();
        assert!(cpu_nanoseconds(me).unwrap() >= before + used);
    }
}
