//! Measuring the processes of a case: operations that are timed alone, then more of the same whose memory is looked at.

use std::time::Duration;

use anyhow::Result;
use tokio::time::MissedTickBehavior;

use super::case::Case;
use super::kernel::{cpu_nanoseconds, peak_rss_bytes, pss_bytes};
use super::processes::{Iterated, Processes};
use super::theory;

/// Pause between two looks at the sidecars' memory. A look costs about a millisecond per 64 MiB, so none falls into the
/// operations that are timed.
const LOOK: Duration = Duration::from_millis(20);
/// How long memory is looked at, if one operation is not longer.
const LOOKING: Duration = Duration::from_millis(400);
/// Most operations while memory is looked at.
const MOST_LOOKED_AT: usize = 2_000;
/// How long the timed operations should take together.
const TIMED: Duration = Duration::from_secs(3);
/// Bytes that an unshaped operation moves per second at least, to guess how many there is time for.
const SLOW: f64 = 400e6;

/// What was measured of one case.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Measured {
    /// By iteration: the time of the slowest rank.
    pub(crate) times: Vec<Duration>,
    /// Of one operation of one peer, its rank and its sidecar.
    pub(crate) cpu: Duration,
    /// Of the process that had most.
    pub(crate) peak_rss_bytes: u64,
    /// Of the sidecar that had most; none where there are no sidecars.
    pub(crate) sidecar_pss_above_start_bytes: Option<u64>,
    /// Per operation; none where there is no coordinator.
    pub(crate) control_messages_per_peer: Option<f64>,
}

/// How many operations to time where nobody says.
pub(crate) fn iterations(case: &Case) -> usize {
    let guess = theory::least(case).map_or(case.bytes as f64 / SLOW, |least| least.as_secs_f64());
    ((TIMED.as_secs_f64() / guess.max(1e-3)) as usize).clamp(5, 500)
}

/// Measures `iterations` operations; `at_start` is the sidecars' memory before the ranks began, in slot order.
///
/// # Errors
/// When a process ends, or an operation fails.
pub(crate) async fn measure(processes: &mut Processes, peers: usize, iterations: usize, at_start: &[u64]) -> Result<Measured> {
    let warm = processes.iterate((iterations / 5).clamp(2, 50)).await?;
    let before = sidecars_cpu(processes)?;
    let timed = processes.iterate(iterations).await?;
    let sidecars = sidecars_cpu(processes)? - before;
    let ranks: u64 = timed.iter().map(|rank| rank.cpu_nanoseconds).sum();
    let times = slowest(&timed);
    let pss = if at_start.is_empty() { None } else { Some(look_at_memory(processes, &times, at_start).await?) };
    let said = |iterated: &[Iterated]| -> u64 { iterated.iter().map(|rank| rank.control_messages).sum() };
    let messages = (said(&timed) - said(&warm)) as f64 / (peers * iterations) as f64;
    Ok(Measured {
        times,
        cpu: Duration::from_nanos((sidecars + ranks) / (peers * iterations) as u64),
        peak_rss_bytes: processes.all().map(peak_rss_bytes).collect::<Result<Vec<_>>>()?.into_iter().max().unwrap_or(0),
        sidecar_pss_above_start_bytes: pss,
        control_messages_per_peer: (!at_start.is_empty()).then_some(messages),
    })
}

fn sidecars_cpu(processes: &Processes) -> Result<u64> {
    processes.sidecars().map(cpu_nanoseconds).sum()
}

/// Of each iteration, the time of the rank that took longest.
fn slowest(ranks: &[Iterated]) -> Vec<Duration> {
    let count = ranks.iter().map(|rank| rank.nanoseconds.len()).min().unwrap_or(0);
    let longest = |iteration: usize| ranks.iter().map(|rank| rank.nanoseconds[iteration]).max().unwrap_or(0);
    (0..count).map(|iteration| Duration::from_nanos(longest(iteration))).collect()
}

/// The most memory above `at_start` that a sidecar has during operations like those that took `times`.
async fn look_at_memory(processes: &mut Processes, times: &[Duration], at_start: &[u64]) -> Result<u64> {
    let pids: Vec<u32> = processes.sidecars().collect();
    let typical = times.iter().sum::<Duration>().as_secs_f64() / times.len().max(1) as f64;
    let count = ((LOOKING.as_secs_f64() / typical) as usize).clamp(2, MOST_LOOKED_AT);
    let mut most = 0;
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut iterating = std::pin::pin!(processes.iterate(count));
    loop {
        tokio::select! {
            iterated = &mut iterating => return iterated.map(|_| most),
            _ = looks.tick() => {
                for (pid, start) in pids.iter().zip(at_start) {
                    most = most.max(pss_bytes(*pid)?.saturating_sub(*start));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::collective::case::tests::shaped;

    #[test]
    fn an_iteration_is_as_slow_as_its_slowest_rank() {
        let rank =
            |nanoseconds: [u64; 3]| Iterated { nanoseconds: nanoseconds.to_vec(), cpu_nanoseconds: 0, control_messages: 0 };
        assert_eq!(slowest(&[rank([1, 5, 2]), rank([4, 3, 2])]), [4, 5, 2].map(Duration::from_nanos));
    }

    #[test]
    fn slow_links_are_measured_less_often() {
        assert_eq!(iterations(&shaped("16MiB", "200mbit", None)), 5);
        let unshaped = |bytes| Case { bytes, rates: Vec::new(), ..shaped("16MiB", "200mbit", None) };
        assert_eq!(iterations(&unshaped(4096)), 500);
        assert_eq!(iterations(&unshaped(16 << 20)), 71);
    }
}
