//! Real Kubernetes clusters on this machine: `e2e/cluster/cluster.sh`, with what it needs looked for first.

mod needs;

use std::{
    env,
    ffi::{OsStr, OsString},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};

use crate::{image, paths, process::run_lines, tally::Tally};
use needs::{Machine, Reach, installed};

pub(crate) const SCRIPT: &str = "e2e/cluster/cluster.sh";
/// Longest time for a task; a cold build takes eleven minutes on two idle cores.
const LIMIT: Duration = Duration::from_hours(1);

/// What is done to the lab.
#[derive(Debug, Clone, clap::Subcommand)]
pub(crate) enum Task {
    /// Compile Kubernetes, etcd, containerd and Helm; seconds where nothing changed
    Build,
    /// Start a cluster
    Up {
        /// Its number, 1 to 9
        cluster: u8,
        /// How many nodes; with 0 there is only the control plane
        nodes: u8,
    },
    /// Remove all clusters, and everything of them
    Down,
    /// What is there, and what of it runs
    Status,
    /// Print the path of the administrator's kubeconfig
    Kubeconfig {
        /// Number of the cluster
        cluster: u8,
    },
    /// Run a command in the network of a control plane, with KUBECONFIG set, and kubectl and helm on the PATH
    In {
        /// Number of the cluster
        cluster: u8,
        /// The command
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
    /// Take an OCI image to every node, also to those that are started later
    Load {
        /// A tar file, such as target/images/sidecar.tar
        tar: PathBuf,
    },
    /// Take the power from a node
    Kill {
        /// Such as c1-n2
        node: String,
    },
    /// Kill the process of one container of a pod, and nothing else
    KillContainer {
        /// Such as c1-n2
        node: String,
        /// Name of the pod
        pod: String,
        /// Name of the container
        container: String,
    },
    /// Start a node that was killed
    Start {
        /// Such as c1-n2
        node: String,
    },
    /// Take down the link of a host
    Cut {
        /// A node such as c1-n2, or a control plane such as c1
        host: String,
    },
    /// Bring the link of a host back
    Heal {
        /// A node such as c1-n2, or a control plane such as c1
        host: String,
    },
    /// Bound what is sent to a host
    Shape {
        /// A node such as c1-n2, or a control plane such as c1
        host: String,
        /// Such as 50mbit; none ends it
        rate: String,
    },
    /// Kill the API server of a cluster, and nothing else
    StopApi {
        /// Number of the cluster
        cluster: u8,
    },
    /// Start the API server of a cluster again
    StartApi {
        /// Number of the cluster
        cluster: u8,
    },
}

impl Task {
    /// The script's words for it.
    fn words(&self) -> Vec<OsString> {
        let words = |words: &[&str]| words.iter().map(OsString::from).collect();
        match self {
            Self::Build => words(&["build"]),
            Self::Up { cluster, nodes } => words(&["up", &cluster.to_string(), &nodes.to_string()]),
            Self::Down => words(&["down"]),
            Self::Status => words(&["status"]),
            Self::Kubeconfig { cluster } => words(&["kubeconfig", &cluster.to_string()]),
            Self::In { cluster, command } => {
                let mut words: Vec<OsString> = words(&["in", &cluster.to_string()]);
                words.extend_from_slice(command);
                words
            }
            Self::Load { tar } => vec!["load".into(), tar.into()],
            Self::Kill { node } => words(&["kill", node]),
            Self::KillContainer { node, pod, container } => words(&["kill-container", node, pod, container]),
            Self::Start { node } => words(&["start", node]),
            Self::Cut { host } => words(&["cut", host]),
            Self::Heal { host } => words(&["heal", host]),
            Self::Shape { host, rate } => words(&["shape", host, rate]),
            Self::StopApi { cluster } => words(&["stop-api", &cluster.to_string()]),
            Self::StartApi { cluster } => words(&["start-api", &cluster.to_string()]),
        }
    }

    fn reach(&self) -> Reach {
        match self {
            Self::Build => Reach::Builds,
            Self::Kubeconfig { .. } => Reach::Reads,
            _ => Reach::Runs,
        }
    }
}

/// Does it. The folder of all state and programs is `LAB`, or `cluster` in Cargo's target directory.
pub(crate) fn perform(task: &Task) -> Result<Tally> {
    let root = rustix::process::geteuid().is_root();
    let lacks = Machine { linux: cfg!(target_os = "linux"), root, has: installed }.lacks(task.reach());
    ensure!(lacks.is_empty(), "the lab lacks {}", lacks.join("; "));
    let lab = env::var_os("LAB").map_or_else(|| paths::target().join("cluster"), PathBuf::from);
    let start = Instant::now();
    if matches!(task, Task::Build) {
        image::for_lab(&lab.join("images"))?;
    }
    let mut command = Command::new(paths::root().join(SCRIPT));
    command.args(task.words()).env("LAB", lab).env("PATH", path()?).stdin(Stdio::null());
    if matches!(task, Task::In { .. }) {
        return Err(command.stdin(Stdio::inherit()).exec().into());
    }
    let status = run_lines("cluster", &mut command, LIMIT, |_| true)?;
    if !status.success() {
        bail!("{SCRIPT} {}: {status}", shown(&task.words()));
    }
    if !matches!(task, Task::Kubeconfig { .. }) {
        println!("cluster {}: {:.1} s", shown(&task.words()), start.elapsed().as_secs_f64());
    }
    Ok(Tally::PASSED)
}

/// Root's programs are not on everybody's PATH.
fn path() -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    Ok(env::join_paths(env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]))?)
}

fn shown(words: &[OsString]) -> String {
    words.join(OsStr::new(" ")).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(subcommand)]
        task: Task,
    }

    fn words(line: &str) -> String {
        shown(&Line::try_parse_from(line.split(' ')).unwrap().task.words())
    }

    #[test]
    fn the_script_knows_every_task() {
        let script = std::fs::read_to_string(paths::root().join(SCRIPT)).unwrap();
        let lines = [
            "build",
            "up 1 3",
            "down",
            "status",
            "kubeconfig 1",
            "load a.tar",
            "kill c1-n1",
            "kill-container c1-n1 kjv-local-0-x sidecar",
            "start c1-n1",
            "cut c1",
        ];
        for line in lines.into_iter().chain(["heal c1", "shape c1 50mbit", "stop-api 1", "start-api 1"]) {
            assert_eq!(words(&format!("cluster {line}")), line);
            let (name, count) = (line.split(' ').next().unwrap(), line.split(' ').count() - 1);
            assert!(script.contains(&format!("\n  {name}/{count}) ")), "{line}");
        }
    }

    #[test]
    fn a_command_inside_keeps_its_own_options() {
        assert_eq!(words("cluster in 1 kubectl get pods -A -o wide"), "in 1 kubectl get pods -A -o wide");
        assert_eq!(words("cluster in 1 -- helm list --all"), "in 1 helm list --all");
    }
}
