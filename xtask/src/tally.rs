//! How many tests and checks passed, failed and were skipped.

use std::{fmt, iter::Sum, ops::AddAssign};

/// Counts of tests and checks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
}

impl Tally {
    /// One check that passed.
    pub(crate) const PASSED: Self = Self { passed: 1, failed: 0, skipped: 0 };
    /// One check that failed.
    pub(crate) const FAILED: Self = Self { passed: 0, failed: 1, skipped: 0 };
    /// One check that was skipped.
    pub(crate) const SKIPPED: Self = Self { passed: 0, failed: 0, skipped: 1 };

    /// Counts one check.
    pub(crate) fn of(holds: bool) -> Self {
        if holds { Self::PASSED } else { Self::FAILED }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl Sum for Tally {
    fn sum<I: Iterator<Item = Self>>(tallies: I) -> Self {
        let mut sum = Self::default();
        tallies.for_each(|tally| sum += tally);
        sum
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// What `cargo test` prints, read line by line.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct TestOutput {
    pub(crate) tally: Tally,
    /// Names of tests that were skipped, with the reason where one is given.
    pub(crate) skipped: Vec<String>,
}

impl TestOutput {
    /// Takes the next line, and says whether a person should see it.
    pub(crate) fn take(&mut self, line: &str) -> bool {
        if let Some(counts) = line.strip_prefix("test result: ") {
            self.tally += counts_of(counts);
            return !counts.starts_with("ok");
        }
        if let Some((name, outcome)) = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) {
            if let Some(reason) = outcome.strip_prefix("ignored") {
                self.skipped.push(format!("{name}{}", reason.replacen(", ", ": ", 1)));
            }
            return outcome != "ok";
        }
        !(line.is_empty() || line.starts_with("running "))
    }
}

/// Reads `ok. 5 passed; 1 failed; 2 ignored; ...`.
fn counts_of(text: &str) -> Tally {
    let count = |word: &str| {
        let before = text.split(';').find_map(|part| part.trim_end().strip_suffix(word));
        before.and_then(|part| part.split_whitespace().last()).and_then(|number| number.parse().ok()).unwrap_or(0)
    };
    Tally { passed: count(" passed"), failed: count(" failed"), skipped: count(" ignored") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_all_test_binaries_are_added() {
        let mut output = TestOutput::default();
        let shown: Vec<bool> = [
            "running 3 tests",
            "test a::one ... ok",
            "test a::two ... ignored, needs a GPU",
            "test a::three ... ok",
            "",
            "test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test b::one ... FAILED",
            "thread 'b::one' panicked at src/b.rs:7:9:",
            "test result: FAILED. 40 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.25s",
        ]
        .into_iter()
        .map(|line| output.take(line))
        .collect();
        assert_eq!(output.tally, Tally { passed: 42, failed: 1, skipped: 1 });
        assert_eq!(output.skipped, ["a::two: needs a GPU"]);
        assert_eq!(shown, [false, false, true, false, false, false, true, true, true]);
    }

    #[test]
    fn a_tally_is_one_plain_line() {
        let sum: Tally = [Tally::PASSED, Tally::SKIPPED, Tally::FAILED, Tally::PASSED].into_iter().sum();
        assert_eq!(sum.to_string(), "2 passed, 1 failed, 1 skipped");
    }
}
