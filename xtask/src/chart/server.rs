//! A dry run of what the chart makes on a real API server, which knows more than any schema.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{helm::Rendered, yaml};
use crate::{paths, process::output};

/// Namespace of the dry run: it is in every cluster.
const NAMESPACE: &str = "default";
const LIMIT: Duration = Duration::from_mins(2);

/// An API server.
#[derive(Debug)]
pub(super) struct Server {
    kubeconfig: PathBuf,
    kinds: Vec<String>,
}

impl Server {
    /// Asks which kinds it serves.
    pub(super) fn at(kubeconfig: &Path) -> Result<Self> {
        let mut server = Self { kubeconfig: kubeconfig.to_owned(), kinds: Vec::new() };
        let listed = output("kubectl", server.kubectl().args(["api-resources", "--no-headers"]), LIMIT)?;
        server.kinds = listed.lines().filter_map(kind).collect();
        Ok(server)
    }

    /// How many objects it takes, how many are of kinds that it does not serve, and what it refuses.
    pub(super) fn faults(&self, name: &str, rendered: &Rendered) -> Result<(usize, usize, Vec<String>)> {
        let (known, unknown): (Vec<&Value>, Vec<&Value>) =
            rendered.documents.iter().partition(|document| self.kinds.contains(&kind_of(document)));
        let items: Vec<Value> = known.into_iter().map(moved).collect();
        let count = items.len();
        let file = tempfile::NamedTempFile::with_suffix(".json")?;
        fs::write(file.path(), serde_json::to_vec(&json!({"apiVersion": "v1", "kind": "List", "items": items}))?)?;
        let mut apply = self.kubectl();
        apply.args(["apply", "--dry-run=server", "--filename"]).arg(file.path());
        let refused = output("kubectl apply", &mut apply, LIMIT).err().map(|error| format!("{name}: {error}"));
        Ok((count, unknown.len(), refused.into_iter().collect()))
    }

    fn kubectl(&self) -> Command {
        let lab = paths::root().join("target/cluster/bin");
        let path = env::var_os("PATH").unwrap_or_default();
        let program = [lab].into_iter().chain(env::split_paths(&path)).map(|folder| folder.join("kubectl"));
        let mut kubectl = Command::new(program.into_iter().find(|program| program.is_file()).unwrap_or("kubectl".into()));
        kubectl.arg("--kubeconfig").arg(&self.kubeconfig);
        kubectl
    }
}

/// Version and kind in a row of `kubectl api-resources`: name, short names where there are any, version, namespaced, kind.
fn kind(row: &str) -> Option<String> {
    let mut columns = row.split_whitespace().rev();
    let (kind, _, version) = (columns.next()?, columns.next()?, columns.next()?);
    Some(format!("{version} {kind}"))
}

fn kind_of(document: &Value) -> String {
    format!("{} {}", yaml::text(document, "/apiVersion"), yaml::text(document, "/kind"))
}

/// The object in a namespace that exists.
fn moved(document: &Value) -> Value {
    let mut moved = document.clone();
    if let Some(namespace) = moved.pointer_mut("/metadata/namespace") {
        *namespace = json!(NAMESPACE);
    }
    moved
}

/// Reads the path of a kubeconfig.
pub(super) fn server(kubeconfig: &Path) -> Result<Server> {
    Server::at(kubeconfig).with_context(|| format!("the cluster of {}", kubeconfig.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_short_names_or_not() {
        assert_eq!(kind("deployments  deploy  apps/v1  true  Deployment").unwrap(), "apps/v1 Deployment");
        assert_eq!(kind("bindings  v1  true  Binding").unwrap(), "v1 Binding");
        assert_eq!(kind(""), None);
    }

    #[test]
    fn only_what_has_a_namespace_is_moved() {
        assert_eq!(moved(&json!({"metadata": {"namespace": "a"}})), json!({"metadata": {"namespace": "default"}}));
        assert_eq!(moved(&json!({"metadata": {"name": "a"}})), json!({"metadata": {"name": "a"}}));
    }
}
