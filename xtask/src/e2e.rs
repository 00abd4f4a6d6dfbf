//! The end-to-end tests: images, a cluster of the lab, the chart, the cases, and everything away again.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser as _;

use crate::{
    cluster, image, paths,
    process::{cargo, run_lines},
    product,
    tally::Tally,
};

/// Longest time for one step.
const LIMIT: Duration = Duration::from_hours(1);
/// Nodes of the cluster, and its number.
const NODES: u8 = 3;
const NUMBER: u8 = 1;
const SYSTEM: &str = "atoll-system";
const REGISTRY: &str = "registry.local";

/// What is asked for.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// Another cluster than one of the lab; the chart must be installed there
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Only the cases of the reduced pass
    #[arg(long)]
    quick: bool,
    /// Only cases whose names contain this; may be repeated
    #[arg(long = "case", value_name = "NAME")]
    cases: Vec<String>,
    /// Leave the cluster up afterwards, and use one that is up
    #[arg(long)]
    keep: bool,
}

/// A command line of an image, read as a person's.
#[derive(Debug, clap::Parser)]
struct Images {
    #[command(flatten)]
    arguments: image::Arguments,
}

/// Performs the cases; the last line is theirs.
pub(crate) fn perform(arguments: &Arguments) -> Result<Tally> {
    build()?;
    if let Some(kubeconfig) = &arguments.kubeconfig {
        return cases(arguments, kubeconfig, None);
    }
    image::perform(&Images::parse_from(["image"]).arguments)?;
    cluster::perform(&cluster::Task::Build)?;
    let _until_all_is_done = Lab::up(arguments.keep)?;
    Lab::install()?;
    cases(arguments, &Lab::kubeconfig(), Some(&paths::root().join(cluster::SCRIPT)))
}

/// All cases on another cluster, where the chart is installed.
pub(crate) fn on(kubeconfig: &Path) -> Result<Tally> {
    perform(&Arguments { kubeconfig: Some(kubeconfig.to_owned()), quick: false, cases: Vec::new(), keep: false })
}

fn build() -> Result<()> {
    let mut command = cargo();
    command.args(["build", "--quiet", "--package", "atoll-e2e"]);
    let status = run_lines("e2e build", command.stdin(Stdio::null()), LIMIT, |_| true)?;
    ensure!(status.success(), "the cases cannot be built: {status}");
    product::build(&["atoll"])
}

/// A cluster of the lab, which goes with this value unless it is kept.
struct Lab {
    keep: bool,
}

impl Lab {
    fn up(keep: bool) -> Result<Self> {
        let there = paths::target().join("cluster").join(format!("c{NUMBER}")).exists();
        if !(keep && there) {
            cluster::perform(&cluster::Task::Up { cluster: NUMBER, nodes: NODES })?;
        }
        let lab = Self { keep };
        for image in ["operator", "sidecar", "trainer"] {
            let tar = paths::target().join("images").join(format!("{image}.tar"));
            cluster::perform(&cluster::Task::Load { tar })?;
        }
        Ok(lab)
    }

    fn kubeconfig() -> PathBuf {
        paths::target().join("cluster").join(format!("c{NUMBER}/pki/admin.kubeconfig"))
    }

    /// Installs the chart as a person does.
    fn install() -> Result<()> {
        let started = Instant::now();
        let mut command = Command::new(paths::target().join("cluster/bin/helm"));
        command.args(["upgrade", "--install", "atoll"]).arg(paths::root().join("helm/atoll"));
        command.args(["--namespace", SYSTEM, "--create-namespace", "--wait", "--timeout", "3m"]);
        for value in [
            format!("image.registry={REGISTRY}"),
            "image.tag=dev".to_owned(),
            format!("runtime.trainer.image={REGISTRY}/atoll-trainer:dev"),
            format!("runtime.sidecar.image={REGISTRY}/atoll-sidecar:dev"),
        ] {
            command.args(["--set", &value]);
        }
        command.env("KUBECONFIG", Self::kubeconfig()).stdin(Stdio::null());
        let status = run_lines("helm", &mut command, LIMIT, |_| true)?;
        ensure!(status.success(), "the chart cannot be installed: {status}");
        println!("chart installed after {:.1} s", started.elapsed().as_secs_f64());
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = cluster::perform(&cluster::Task::Down)
        {
            println!("the cluster is still there: {error:#}");
        }
    }
}

fn cases(arguments: &Arguments, kubeconfig: &Path, script: Option<&Path>) -> Result<Tally> {
    let mut command = Command::new(paths::target().join("debug/atoll-e2e"));
    command.arg("--kubeconfig").arg(kubeconfig).args(["--system", SYSTEM]);
    command.arg("--atoll").arg(paths::release("atoll"));
    if let Some(script) = script {
        command.arg("--lab").arg(script).args(["--number", &NUMBER.to_string()]);
    }
    if arguments.quick {
        command.arg("--quick");
    }
    for case in &arguments.cases {
        command.args(["--case", case]);
    }
    let mut last = String::new();
    let status = run_lines("e2e", command.stdin(Stdio::null()), LIMIT, |line| {
        line.clone_into(&mut last);
        true
    })?;
    let tally: serde_json::Value =
        serde_json::from_str(&last).with_context(|| format!("the cases ended with {status}: {last}"))?;
    let count = |name: &str| tally[name].as_u64().unwrap_or(0) as usize;
    if count("passed") + count("failed") == 0 {
        bail!("no case was performed");
    }
    Ok(Tally { passed: count("passed"), failed: count("failed"), skipped: count("skipped") })
}
