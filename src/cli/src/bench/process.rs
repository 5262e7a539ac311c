//! What the kernel says about processes: CPU time and memory of the authority and of the generator.
//!
//! Comes in: process identifiers. Goes out: numbers of /proc. Refused: a process that isn't there.

use anyhow::Context;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::time::Duration;

/// Ticks per second of the times in `/proc/PID/stat`: USER_HZ, which is 100 on every architecture that this runs on (proc_pid_stat(5)).
const USER_HZ: u64 = 100;

/// A process of this machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Server {
    pid: u32,
}

impl Server {
    pub(crate) const fn new(pid: u32) -> Self {
        Self { pid }
    }

    /// The generator itself.
    pub(crate) fn own() -> Self {
        Self { pid: std::process::id() }
    }

    /// User and system time of all its threads, those that have ended included.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        cpu_of_stat(&self.read("stat")?).with_context(|| format!("/proc/{}/stat", self.pid))
    }

    /// The largest resident memory that it ever had, bytes.
    pub(crate) fn peak_resident_bytes(&self) -> anyhow::Result<u64> {
        self.status("VmHWM:")
    }

    /// Resident memory now, bytes.
    pub(crate) fn resident_bytes(&self) -> anyhow::Result<u64> {
        self.status("VmRSS:")
    }

    fn status(&self, key: &str) -> anyhow::Result<u64> {
        bytes_of_status(&self.read("status")?, key).with_context(|| format!("/proc/{}/status", self.pid))
    }

    fn read(&self, file: &str) -> anyhow::Result<String> {
        let path = format!("/proc/{}/{file}", self.pid);
        std::fs::read_to_string(&path).with_context(|| path)
    }
}

/// Fields 14 and 15, utime and stime. The name in field 2 may hold spaces and parentheses, so counting starts after the last one.
fn cpu_of_stat(stat: &str) -> Option<Duration> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_ascii_whitespace().skip(11).take(2).map(str::parse::<u64>);
    let ticks = times.next()?.ok()?.checked_add(times.next()?.ok()?)?;
    Some(Duration::from_millis(ticks.checked_mul(1_000 / USER_HZ)?))
}

fn bytes_of_status(status: &str, key: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1_024)
}

/// One connection a host and some files: raises the soft limit as far as the hard one allows.
pub(crate) fn raise_open_files(hosts: u64) {
    let wanted = hosts.saturating_add(256);
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < wanted
        && (wanted > hard || setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).is_err())
    {
        anstream::eprintln!("at most {hard} open files are allowed here: some hosts will fail to connect");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_behind_any_process_name() {
        let stat = "7 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 250 50 1 1 20 0 4 0 99";
        assert_eq!(cpu_of_stat(stat), Some(Duration::from_millis(3_000)));
        assert_eq!(cpu_of_stat("7 (a) S 1 2 3"), None);
        assert_eq!(cpu_of_stat("no parenthesis"), None);
    }

    #[test]
    fn memory_is_in_kibibytes() {
        let status = "VmPeak:\t 9 kB\nVmHWM:\t    2048 kB\nVmRSS:\t 1 kB\n";
        assert_eq!(bytes_of_status(status, "VmHWM:"), Some(2 << 20));
        assert_eq!(bytes_of_status(status, "VmRSS:"), Some(1 << 10));
        assert_eq!(bytes_of_status("VmRSS:\t 1 kB\n", "VmHWM:"), None);
    }

    #[test]
    fn this_process_can_be_measured_and_an_absent_one_cannot() {
        let own = Server::own();
        assert!(own.cpu().is_ok());
        assert!(own.peak_resident_bytes().unwrap() > 1 << 20 && own.resident_bytes().unwrap() > 1 << 20);
        // Above the largest identifier that the kernel gives (PID_MAX_LIMIT, 2^22).
        assert!(Server::new(u32::MAX).cpu().is_err());
    }
}
