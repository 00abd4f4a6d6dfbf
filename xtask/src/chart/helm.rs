//! Helm, as a process: what the chart becomes with given values, and what Helm says of it.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::yaml;
use crate::paths;

/// Where the chart is installed to in all checks.
pub(super) const NAMESPACE: &str = "atoll-system";
const RELEASE: &str = "atoll";

/// Helm, and the chart.
#[derive(Debug, Clone)]
pub(super) struct Helm {
    program: PathBuf,
    chart: PathBuf,
}

impl Helm {
    /// Finds Helm among the programs of the lab, or on the PATH.
    ///
    /// # Errors
    /// Where there is none, with how to get it.
    pub(super) fn find(chart: PathBuf) -> Result<Self> {
        let lab = paths::root().join("target/cluster/bin");
        let path = env::var_os("PATH").unwrap_or_default();
        let found = [lab.clone()].into_iter().chain(env::split_paths(&path)).map(|folder| folder.join("helm"));
        let Some(program) = found.into_iter().find(|program| program.is_file()) else {
            bail!(
                "no helm in target/cluster/bin or on the PATH: cargo xtask cluster build makes it, \
                 or GOBIN={} go install helm.sh/helm/v4/cmd/helm@v4.3.1",
                lab.display()
            );
        };
        Ok(Self { program, chart })
    }

    /// What `helm lint --strict` finds wrong with the values of `file`.
    pub(super) fn lint(&self, file: &Path) -> Result<Vec<String>> {
        let output = self.run(&["lint", "--strict"], &["--values", &file.to_string_lossy()])?;
        if output.status.success() {
            return Ok(Vec::new());
        }
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        let wrong = said.lines().filter(|line| line.starts_with("[ERROR]") || line.starts_with("[WARNING]"));
        Ok(wrong.map(str::to_owned).chain([format!("helm lint: {}", output.status)]).collect())
    }

    /// What the chart becomes with more arguments, as text, or else what Helm refuses it with.
    pub(super) fn template(&self, arguments: &[&str]) -> Result<Result<String, String>> {
        self.answer(&["template", RELEASE], arguments)
    }

    /// What the chart becomes with the values of `file`.
    pub(super) fn rendered(&self, file: &Path) -> Result<Rendered> {
        let text = self.template(&["--values", &file.to_string_lossy()])?;
        let text = text.map_err(anyhow::Error::msg).with_context(|| format!("{}", file.display()))?;
        let documents = yaml::documents(&text).with_context(|| format!("what {} makes", file.display()))?;
        Ok(Rendered { text, documents })
    }

    /// What people are told after an installation with the values of `file`.
    pub(super) fn notes(&self, file: &Path) -> Result<String> {
        let arguments = ["--dry-run=client", "--values", &file.to_string_lossy()];
        let text = self.answer(&["install", RELEASE], &arguments)?.map_err(anyhow::Error::msg)?;
        let (_, notes) = text.split_once("\nNOTES:\n").context("no notes")?;
        Ok(notes.to_owned())
    }

    fn answer(&self, command: &[&str], arguments: &[&str]) -> Result<Result<String, String>> {
        let output = self.run(command, arguments)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) })
    }

    /// Helm asks no cluster: what it makes must not depend on one.
    fn run(&self, command: &[&str], arguments: &[&str]) -> Result<Output> {
        let mut helm = Command::new(&self.program);
        helm.args(command).arg(&self.chart).args(["--namespace", NAMESPACE, "--kubeconfig", "/dev/null"]).args(arguments);
        helm.output().with_context(|| format!("cannot run {}", self.program.display()))
    }
}

/// What the chart becomes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rendered {
    /// As Helm prints it.
    pub(super) text: String,
    /// Its objects.
    pub(super) documents: Vec<Value>,
}

impl Rendered {
    /// Objects of a kind.
    pub(super) fn of<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.documents.iter().filter(move |document| yaml::text(document, "/kind") == kind)
    }

    /// The Deployment of the operator.
    pub(super) fn operator(&self) -> Result<&Value> {
        self.of("Deployment").next().context("no Deployment")
    }

    /// Environment variables of the operator that have a plain value, and those that have another source with an empty one.
    pub(super) fn environment(&self) -> Result<Vec<(&str, &str)>> {
        let variables = yaml::items(self.operator()?, "/spec/template/spec/containers/0/env");
        Ok(variables.iter().map(|variable| (yaml::text(variable, "/name"), yaml::text(variable, "/value"))).collect())
    }

    /// The value of a setting of the operator, where it is set.
    pub(super) fn setting(&self, name: &str) -> Result<Option<&str>> {
        Ok(self.environment()?.into_iter().find(|(variable, _)| *variable == name).map(|(_, value)| value))
    }

    /// Namespaces that the operator watches; none where it is the whole cluster.
    pub(super) fn watched(&self) -> Result<Vec<&str>> {
        Ok(self.setting("ATOLL_WATCH_NAMESPACES")?.map(|names| names.split(',').collect()).unwrap_or_default())
    }
}
