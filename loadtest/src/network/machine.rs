//! What the kernel says of the machine and of processes while a run goes on: CPU, memory, bytes on links.
//!
//! Not here: what the processes say of themselves (their metrics).

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// The kernel's unit of CPU time for user space; the same on every Linux that Rust runs on.
const TICKS_PER_SEC: u64 = 100;

/// CPU time of the whole machine since it started, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MachineCpu {
    busy: u64,
    all: u64,
}

impl MachineCpu {
    /// As it is now.
    ///
    /// # Errors
    /// No /proc.
    pub fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("/proc/stat")?;
        Self::parse(&text).context("/proc/stat has no line of all CPUs")
    }

    fn parse(text: &str) -> Option<Self> {
        let line = text.lines().find(|line| line.starts_with("cpu "))?;
        // user nice system idle iowait irq softirq steal; what guests take is in user already.
        let ticks: Vec<u64> = line
            .split_whitespace()
            .skip(1)
            .take(8)
            .map_while(|word| word.parse().ok())
            .collect();
        let all = ticks.iter().sum();
        let idle = ticks.get(3)? + ticks.get(4)?;
        Some(Self {
            busy: all - idle,
            all,
        })
    }

    /// The share of all cores that was busy since `before`, 0 to 1.
    #[must_use]
    pub fn busy_since(self, before: Self) -> f64 {
        let all = self.all.saturating_sub(before.all);
        let busy = self.busy.saturating_sub(before.busy);
        busy as f64 / all.max(1) as f64
    }
}

/// Bytes of memory that processes can still have without anything being swapped out.
///
/// # Errors
/// No /proc.
pub fn memory_available() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("/proc/meminfo")?;
    parse_available(&text).context("/proc/meminfo does not tell what is available")
}

fn parse_available(meminfo: &str) -> Option<u64> {
    let mut lines = meminfo.lines();
    let kib = lines.find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(kib.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// Bytes of free memory that lie in stretches as long as `bytes` or longer, as the kernel keeps them: what it takes for
/// long writes.
///
/// # Errors
/// No /proc, or a kernel that does not tell.
pub fn memory_free_in(bytes: u64) -> Result<u64> {
    let text = fs::read_to_string("/proc/buddyinfo").context("/proc/buddyinfo")?;
    let page = rustix::param::page_size() as u64;
    parse_free_in(&text, page, bytes).context("/proc/buddyinfo is not what it used to be")
}

fn parse_free_in(buddyinfo: &str, page_bytes: u64, bytes: u64) -> Option<u64> {
    let mut free = 0;
    for line in buddyinfo.lines() {
        let (_, zone) = line.split_once("zone")?;
        // After the zone's name the free stretches of one page, of two, of four, and so on.
        for (order, count) in zone.split_whitespace().skip(1).enumerate() {
            let stretch = page_bytes.checked_shl(u32::try_from(order).ok()?)?;
            if stretch >= bytes {
                free += count.parse::<u64>().ok()?.checked_mul(stretch)?;
            }
        }
    }
    Some(free)
}

/// CPU time that a process has taken, with all its threads.
///
/// # Errors
/// There is no such process.
pub fn cpu_of(pid: i32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    ticks_of(&text)
        .map(|ticks| Duration::from_millis(ticks * 1000 / TICKS_PER_SEC))
        .context(path)
}

fn ticks_of(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

/// Bytes that passed a link since it was made, Ethernet headers among them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkBytes {
    pub tx: u64,
    pub rx: u64,
}

/// Of the interface `eth0` in the namespace of this process.
///
/// # Errors
/// There is no such process.
pub fn link_of(pid: i32) -> Result<LinkBytes> {
    let path = format!("/proc/{pid}/net/dev");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    parse_link(&text).with_context(|| format!("{path} has no eth0"))
}

fn parse_link(text: &str) -> Option<LinkBytes> {
    let line = text
        .lines()
        .find_map(|line| line.trim_start().strip_prefix("eth0:"))?;
    let mut fields = line.split_whitespace();
    let rx = fields.next()?.parse().ok()?;
    let tx = fields.nth(7)?.parse().ok()?;
    Some(LinkBytes { tx, rx })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_busy_with_all_that_is_not_idle_or_waiting() {
        let of = |text| MachineCpu::parse(text).expect("parsed");
        let before = of("cpu  100 0 50 1000 10 0 5 0 7 0\ncpu0 1 1 1 1\n");
        let after = of("cpu  150 0 70 1100 20 0 15 10 99 0\n");
        // 50 + 20 + 10 + 10 of 200.
        assert!((after.busy_since(before) - 0.45).abs() < 1e-9);
        assert_eq!(MachineCpu::parse("intr 1"), None);
    }

    #[test]
    fn memory_that_is_available_is_told_in_bytes() {
        let meminfo = "MemTotal:       24691668 kB\nMemAvailable:   22998100 kB\n";
        assert_eq!(parse_available(meminfo), Some(22_998_100 * 1024));
        assert_eq!(parse_available("MemTotal: 1 kB\n"), None);
        assert!(memory_available().is_ok());
    }

    #[test]
    fn free_memory_is_counted_from_a_length_of_its_stretches_on() {
        let buddyinfo = "Node 0, zone      DMA      0      1      3 \nNode 0, zone   Normal      7      0      2 \n";
        assert_eq!(
            parse_free_in(buddyinfo, 4096, 1),
            Some(4096 * (2 + 12 + 7 + 8))
        );
        assert_eq!(parse_free_in(buddyinfo, 4096, 16384), Some(4096 * 20));
        assert_eq!(parse_free_in("Node 0, zone DMA x", 4096, 1), None);
        assert!(memory_free_in(1).is_ok());
    }

    #[test]
    fn a_name_with_blanks_and_brackets_does_not_shift_the_fields() {
        let stat = "17 (a ) b) S 1 1 1 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 3 0 99 1 2\n";
        assert_eq!(ticks_of(stat), Some(300));
        assert!(cpu_of(i32::MAX).is_err());
    }

    #[test]
    fn a_links_bytes_are_its_first_and_ninth_figure() {
        let text = "Inter-|   Receive  |  Transmit\n face |bytes packets\n    lo:  1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 500 4 0 0 0 0 0 0 300 3 0 0 0 0 0 0\n";
        assert_eq!(parse_link(text), Some(LinkBytes { tx: 300, rx: 500 }));
        assert_eq!(parse_link("    lo: 1 1"), None);
    }
}
