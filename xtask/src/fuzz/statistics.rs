//! What libFuzzer says, read.

use std::path::PathBuf;

/// Figures of one fuzzer at its end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Statistics {
    pub(super) executions: u64,
    pub(super) per_second: u64,
    /// Edges of the code that were reached.
    pub(super) coverage: u64,
    /// The same, told apart by how often.
    pub(super) features: u64,
    /// Inputs that each reach something of their own.
    pub(super) corpus: u64,
    /// Most that the process took, MiB.
    pub(super) memory: u64,
}

impl Statistics {
    /// Reads them off everything that was said; 0 where something was not.
    pub(super) fn read(said: &str) -> Self {
        let number = |text: &str| text.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok();
        let at_the_end = |name: &str| {
            let line = said.lines().rev().find_map(|line| line.strip_prefix("stat::")?.strip_prefix(name));
            line.and_then(|rest| number(rest.trim_start_matches(':').trim())).unwrap_or_default()
        };
        // `#4096  pulse  cov: 100 ft: 200 corp: 30/1000b lim: 64 exec/s: 2048 rss: 50Mb`
        let on_the_way = |name: &str| {
            let last = said.lines().rev().filter(|line| line.starts_with('#')).find_map(|line| line.split_once(name));
            last.and_then(|(_, rest)| number(rest.trim())).unwrap_or_default()
        };
        Self {
            executions: at_the_end("number_of_executed_units"),
            per_second: at_the_end("average_exec_per_sec"),
            coverage: on_the_way(" cov:"),
            features: on_the_way(" ft:"),
            corpus: on_the_way(" corp:"),
            memory: at_the_end("peak_rss_mb"),
        }
    }
}

/// The files with inputs that broke the target.
pub(super) fn broken(said: &str) -> Vec<PathBuf> {
    said.lines().filter_map(|line| line.split_once("Test unit written to ")).map(|(_, path)| path.trim().into()).collect()
}

/// What went wrong: the panic's text, or the fuzzer's word for it.
pub(super) fn why(said: &str) -> Option<&str> {
    let mut lines = said.lines();
    let panic = lines.find(|line| line.contains("panicked at")).and(lines.next());
    panic.or_else(|| {
        let word = said.lines().find(|line| line.contains("ERROR: libFuzzer:") || line.contains("memory allocation of"));
        word.map(|line| line.split_once("libFuzzer: ").map_or(line, |(_, word)| word))
    })
}

/// The last lines.
pub(super) fn last(said: &str, lines: usize) -> String {
    let all: Vec<&str> = said.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DONE: &str = "\
#2\tINITED cov: 9 ft: 10 corp: 1/4b exec/s: 0 rss: 30Mb
#4096\tNEW    cov: 100 ft: 200 corp: 30/1000b lim: 64 exec/s: 2048 rss: 50Mb L: 5/64 MS: 1 ChangeByte-
#9000\tDONE   cov: 101 ft: 207 corp: 31/1005b lim: 64 exec/s: 900 rss: 50Mb
Done 9000 runs in 10 second(s)
stat::number_of_executed_units: 9000
stat::average_exec_per_sec:     900
stat::new_units_added:          30
stat::slowest_unit_time_sec:    0
stat::peak_rss_mb:              51
";

    #[test]
    fn figures_are_those_of_the_end() {
        let read = Statistics { executions: 9000, per_second: 900, coverage: 101, features: 207, corpus: 31, memory: 51 };
        assert_eq!(Statistics::read(DONE), read);
        assert_eq!(Statistics::read("nothing\n"), Statistics::default());
        assert!(broken(DONE).is_empty());
    }

    #[test]
    fn an_input_that_breaks_is_named_with_the_reason() {
        let said = "\
thread 'main' panicked at fuzz/src/targets/planted.rs:12:5:
the planted bug was found
==7== ERROR: libFuzzer: deadly signal
artifact_prefix='broken/'; Test unit written to broken/crash-1f
";
        assert_eq!(broken(said), [PathBuf::from("broken/crash-1f")]);
        assert_eq!(why(said), Some("the planted bug was found"));
        let slow = "==7== ERROR: libFuzzer: timeout after 5 seconds\n";
        assert_eq!(why(slow), Some("timeout after 5 seconds"));
        assert_eq!(last(slow, 5), slow.trim_end());
    }
}
