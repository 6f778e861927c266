//! CPU time of this process, of the roles and of the servers: what an event costs, however busy the machine is.

use std::fmt;
use std::fs;

use serde::Serialize;

/// Microseconds of CPU time for each event.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct CpuPerEvent {
    /// This process: the load, and ours where it runs in process.
    pub(crate) bench_us: f64,
    /// The roles that run as processes of their own.
    pub(crate) roles_us: f64,
    /// Postgres with all its sessions.
    pub(crate) postgres_us: f64,
    /// The broker.
    pub(crate) kafka_us: f64,
}

impl fmt::Display for CpuPerEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.1}, {:.1}, {:.1}, {:.1}",
            self.bench_us, self.roles_us, self.postgres_us, self.kafka_us
        )
    }
}

/// Reads the clocks of some processes twice.
#[derive(Debug, Clone)]
pub(crate) struct CpuMeter {
    postgres: u32,
    kafka: u32,
    roles: Vec<u32>,
    start: [f64; 4],
}

impl CpuMeter {
    /// Starts now.
    pub(crate) fn start(postgres: u32, kafka: u32, roles: &[u32]) -> Self {
        let mut meter = Self {
            postgres,
            kafka,
            roles: roles.to_vec(),
            start: [0.0; 4],
        };
        meter.start = meter.now();
        meter
    }

    /// What each of these events has cost since the start.
    pub(crate) fn per_event(&self, events: u64) -> CpuPerEvent {
        let now = self.now();
        let each = |index: usize| (now[index] - self.start[index]) / events.max(1) as f64;
        CpuPerEvent {
            bench_us: each(0),
            roles_us: each(1),
            postgres_us: each(2),
            kafka_us: each(3),
        }
    }

    fn now(&self) -> [f64; 4] {
        [
            own_us(std::process::id()),
            self.roles.iter().map(|pid| own_us(*pid)).sum(),
            family_us(self.postgres),
            own_us(self.kafka),
        ]
    }
}

/// Resident memory of a process and the most that it ever was, in MB of 1,000,000 bytes.
pub(crate) fn resident_mb(pid: u32) -> Option<(f64, f64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let of = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name))?;
        let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(kib * 1024.0 / 1e6)
    };
    Some((of("VmRSS:")?, of("VmHWM:")?))
}

/// Clock ticks of 10 ms, as Linux counts them for user space on every architecture that we run on.
const TICK_US: f64 = 10_000.0;

/// Fields of `/proc/PID/stat` after the command's name, which may hold spaces: index 0 is the state.
fn stat(pid: u32) -> Option<Vec<f64>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(')')?;
    Some(
        fields
            .split_whitespace()
            .map(|field| field.parse().unwrap_or_default())
            .collect(),
    )
}

fn own_us(pid: u32) -> f64 {
    stat(pid).map_or(0.0, |fields| (fields[11] + fields[12]) * TICK_US)
}

/// A process, its ended children and its living ones: Postgres' sessions come and go.
fn family_us(pid: u32) -> f64 {
    let ended = stat(pid).map_or(0.0, |fields| (fields[13] + fields[14]) * TICK_US);
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let children = entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|child| stat(*child).is_some_and(|fields| fields[1] as u32 == pid));
    own_us(pid) + ended + children.map(own_us).sum::<f64>()
}
