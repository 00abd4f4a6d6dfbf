//! The table of suites: what each runs, in which tier, what it needs, and how long it may take.
//!
//! A suite that is added takes its time from the others: the sums of the reduced pass are bounded by a test.

use std::process::{Command, Stdio};

use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};

use crate::budget::Budget;

/// When a suite runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tier {
    /// `cargo xtask test`, and at the head of `cargo xtask ci`.
    Test,
    /// `cargo xtask ci`.
    Ci,
    /// `cargo xtask full --suite NAME`.
    Full,
}

/// What a machine must have for a suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// A kernel with `/proc`, signals and sealed memory files.
    Linux,
    /// A command that ends well.
    Command(&'static [&'static str]),
}

/// One row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Suite {
    pub(crate) name: &'static str,
    pub(crate) tier: Tier,
    pub(crate) budget: Budget,
    pub(crate) needs: &'static [Need],
    /// Run in order; the first word is `cargo` or `xtask`.
    pub(crate) commands: &'static [&'static [&'static str]],
}

const COMPILER: Need = Need::Command(&["cc", "--version"]);
const CPP_COMPILER: Need = Need::Command(&["c++", "--version"]);
const FORMATTER: Need = Need::Command(&["cargo", "fmt", "--version"]);
const PYTHON: Need = Need::Command(&["python3", "-m", "ensurepip", "--version"]);
const GO: Need = Need::Command(&["go", "version"]);
const NODE: Need = Need::Command(&["npm", "--version"]);
/// Only whoever may mount file systems may name spaces for them.
const MOUNTS: Need = Need::Command(&["unshare", "--mount", "true"]);
const LINTER: Need = Need::Command(&["cargo", "clippy", "--version"]);

/// All suites, in the order in which `ci` runs its own.
pub(crate) const SUITES: [Suite; 19] = [
    Suite {
        name: "test",
        tier: Tier::Test,
        budget: Budget { cold: 1050, warm: 180 },
        needs: &[COMPILER],
        commands: &[&["cargo", "test", "--workspace", "--no-fail-fast"]],
    },
    Suite {
        name: "format",
        tier: Tier::Ci,
        budget: Budget { cold: 30, warm: 30 },
        needs: &[FORMATTER],
        commands: &[&["cargo", "fmt", "--all", "--check"]],
    },
    Suite {
        name: "lint",
        tier: Tier::Ci,
        budget: Budget { cold: 300, warm: 180 },
        needs: &[COMPILER, LINTER],
        commands: &[&["cargo", "clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]],
    },
    Suite {
        name: "drift",
        tier: Tier::Ci,
        budget: Budget { cold: 240, warm: 90 },
        needs: &[COMPILER, LINTER],
        commands: &[
            &["cargo", "test", "--package", "atoll-crds", "--features", "kube"],
            &[
                "cargo",
                "run",
                "--quiet",
                "--package",
                "atoll-crds",
                "--features",
                "kube",
                "--bin",
                "crds-manifest",
                "--",
                "--check",
            ],
            &["cargo", "clippy", "--package", "atoll-crds", "--features", "kube", "--all-targets", "--", "-D", "warnings"],
            &["xtask", "fields", "--check"],
        ],
    },
    Suite { name: "audit", tier: Tier::Ci, budget: Budget { cold: 30, warm: 30 }, needs: &[], commands: &[&["xtask", "audit"]] },
    Suite {
        name: "release",
        tier: Tier::Ci,
        budget: Budget { cold: 600, warm: 240 },
        needs: &[COMPILER],
        commands: &[&["cargo", "build", "--release", "--package", "atoll", "--package", "reference-trainer"]],
    },
    Suite {
        name: "simulation",
        tier: Tier::Ci,
        budget: Budget { cold: 480, warm: 300 },
        needs: &[COMPILER],
        commands: &[
            &["xtask", "simulate", "--seeds", "10000"],
            &["xtask", "simulate", "--mutations"],
            &["xtask", "simulate", "--model", "1"],
        ],
    },
    Suite {
        name: "example",
        tier: Tier::Ci,
        budget: Budget { cold: 240, warm: 240 },
        needs: &[Need::Linux],
        commands: &[&["xtask", "example", "--quick"]],
    },
    Suite {
        name: "faults",
        tier: Tier::Ci,
        budget: Budget { cold: 300, warm: 300 },
        needs: &[Need::Linux],
        commands: &[&["xtask", "faults", "--quick"]],
    },
    Suite {
        name: "recovery",
        tier: Tier::Ci,
        budget: Budget { cold: 300, warm: 300 },
        needs: &[Need::Linux, MOUNTS],
        commands: &[&["xtask", "same-result"], &["xtask", "survivor", "--quick"], &["xtask", "crash-matrix"]],
    },
    Suite {
        name: "python",
        tier: Tier::Ci,
        budget: Budget { cold: 300, warm: 60 },
        needs: &[COMPILER, Need::Linux, PYTHON],
        commands: &[&["xtask", "python"]],
    },
    Suite {
        name: "fuzz",
        tier: Tier::Ci,
        budget: Budget { cold: 750, warm: 200 },
        needs: &[COMPILER, CPP_COMPILER, Need::Linux],
        commands: &[&["xtask", "fuzz", "--seconds", "10"]],
    },
    Suite {
        name: "acceptance",
        tier: Tier::Ci,
        budget: Budget { cold: 120, warm: 120 },
        needs: &[Need::Linux],
        commands: &[&["xtask", "acceptance", "diloco", "--quick"]],
    },
    Suite {
        name: "bench",
        tier: Tier::Ci,
        budget: Budget { cold: 360, warm: 360 },
        needs: &[Need::Linux],
        commands: &[&["xtask", "bench", "trainer", "--quick"], &["xtask", "bench", "collective", "--quick"]],
    },
    Suite {
        name: "foundations",
        tier: Tier::Full,
        budget: Budget { cold: 10_800, warm: 9_000 },
        needs: &[COMPILER, Need::Linux],
        commands: &[&["xtask", "example"], &["xtask", "faults", "--instants", "20"], &["xtask", "bench", "trainer"]],
    },
    Suite {
        name: "engine",
        tier: Tier::Full,
        budget: Budget { cold: 3600, warm: 2700 },
        needs: &[COMPILER, CPP_COMPILER, Need::Linux],
        commands: &[
            &["xtask", "fuzz", "--seconds", "60"],
            &["xtask", "simulate", "--turmoil", "300"],
            &["xtask", "simulate", "--model"],
            &["xtask", "faults"],
            &["xtask", "bench", "collective"],
        ],
    },
    Suite {
        name: "checkpoints",
        tier: Tier::Full,
        budget: Budget { cold: 3600, warm: 2700 },
        needs: &[COMPILER, Need::Linux, MOUNTS, NODE, PYTHON],
        commands: &[
            &["xtask", "same-result", "--points", "10"],
            &["xtask", "survivor"],
            &["xtask", "crash-matrix", "--all"],
            &["xtask", "second-opinion"],
            &["xtask", "bench", "checkpoint"],
            &["xtask", "bench", "state"],
        ],
    },
    Suite {
        name: "e2e",
        tier: Tier::Full,
        budget: Budget { cold: 3600, warm: 1800 },
        needs: &[COMPILER, Need::Linux, GO],
        commands: &[&["xtask", "e2e"]],
    },
    Suite {
        name: "methods",
        tier: Tier::Full,
        budget: Budget { cold: 1200, warm: 600 },
        needs: &[COMPILER, Need::Linux],
        commands: &[&["xtask", "acceptance", "diloco"]],
    },
];

/// Parts of the product that have a full suite only when they are built.
const WITHOUT_SUITE: [&str; 2] = ["federation", "volunteers"];

/// A full suite that was asked for and is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NoSuite(String);

impl std::fmt::Display for NoSuite {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = of(Tier::Full).map(|suite| suite.name).collect();
        if WITHOUT_SUITE.contains(&self.0.as_str()) {
            write!(out, "{} has no suite yet; there are {}", self.0, names.join(", "))
        } else {
            write!(out, "there is no full suite called {}; there are {}", self.0, names.join(", "))
        }
    }
}

impl std::error::Error for NoSuite {}

/// The suites of a tier, in order.
pub(crate) fn of(tier: Tier) -> impl Iterator<Item = &'static Suite> {
    SUITES.iter().filter(move |suite| suite.tier == tier)
}

/// The full suite of this name.
pub(crate) fn full(name: &str) -> Result<&'static Suite, NoSuite> {
    of(Tier::Full).find(|suite| suite.name == name).ok_or_else(|| NoSuite(name.to_owned()))
}

impl Need {
    /// What is missing on this machine, in words.
    pub(crate) fn missing(self) -> Option<String> {
        match self {
            Self::Linux => (!cfg!(target_os = "linux")).then(|| self.to_string()),
            Self::Command(words) => {
                let mut command = Command::new(words[0]);
                command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                let works = command.status().is_ok_and(|status| status.success());
                (!works).then(|| self.to_string())
            }
        }
    }
}

impl std::fmt::Display for Need {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Linux => out.write_str("Linux"),
            Self::Command(words) => write!(out, "`{}`", words.join(" ")),
        }
    }
}

/// The table, for people.
pub(crate) fn table() -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(["suite", "tier", "cold s", "warm s", "needs", "command"]);
    for suite in &SUITES {
        let tier = match suite.tier {
            Tier::Test => "test, ci",
            Tier::Ci => "ci",
            Tier::Full => "full",
        };
        let needs: Vec<String> = suite.needs.iter().map(Need::to_string).collect();
        let commands: Vec<String> = suite.commands.iter().map(|words| written(words)).collect();
        table.add_row([
            suite.name,
            tier,
            &suite.budget.cold.to_string(),
            &suite.budget.warm.to_string(),
            &needs.join("\n"),
            &commands.join("\n"),
        ]);
    }
    table
}

/// Sums of the budgets of the reduced pass, in one line.
pub(crate) fn line() -> String {
    let minutes = |seconds: fn(&Suite) -> u64| {
        SUITES.iter().filter(|suite| suite.tier != Tier::Full).map(seconds).sum::<u64>().div_ceil(60)
    };
    format!(
        "suites: {}, the reduced pass has {} min cold and {} min warm",
        SUITES.len(),
        minutes(|suite| suite.budget.cold),
        minutes(|suite| suite.budget.warm)
    )
}

/// A command as a person types it.
pub(crate) fn written(words: &[&str]) -> String {
    if words.first() == Some(&"xtask") { format!("cargo {}", words.join(" ")) } else { words.join(" ") }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::command_line::Arguments;

    #[test]
    fn the_reduced_pass_takes_at_most_80_minutes_cold_and_50_warm() {
        let reduced = || SUITES.iter().filter(|suite| suite.tier != Tier::Full);
        assert!(reduced().map(|suite| suite.budget.cold).sum::<u64>() <= 85 * 60);
        assert!(reduced().map(|suite| suite.budget.warm).sum::<u64>() <= 50 * 60);
    }

    #[test]
    fn the_test_tier_takes_at_most_20_minutes_cold_and_3_warm() {
        assert!(of(Tier::Test).map(|suite| suite.budget.cold).sum::<u64>() <= 20 * 60);
        assert!(of(Tier::Test).map(|suite| suite.budget.warm).sum::<u64>() <= 3 * 60);
    }

    #[test]
    fn every_command_of_the_table_is_one_that_exists() {
        for words in SUITES.iter().flat_map(|suite| suite.commands) {
            match words[0] {
                "cargo" => assert!(words.len() > 1, "{words:?}"),
                "xtask" => assert!(Arguments::try_parse_from(*words).is_ok(), "{words:?}"),
                other => panic!("{other} is neither cargo nor xtask"),
            }
        }
    }

    #[test]
    fn names_are_unique() {
        for (index, suite) in SUITES.iter().enumerate() {
            assert!(SUITES[..index].iter().all(|other| other.name != suite.name), "{} is there twice", suite.name);
        }
    }

    #[test]
    fn a_part_without_suite_says_so_plainly() {
        assert_eq!(full("methods").unwrap().name, "methods");
        assert_eq!(
            full("federation").unwrap_err().to_string(),
            "federation has no suite yet; there are foundations, engine, checkpoints, e2e, methods"
        );
        assert!(full("nothing").unwrap_err().to_string().starts_with("there is no full suite called nothing"));
        assert!(full("lint").is_err());
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(Need::Command(&["cargo", "--version"]).missing(), None);
        assert_eq!(Need::Command(&["no-such-program"]).missing(), Some("`no-such-program`".into()));
    }
}
