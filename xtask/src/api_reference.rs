//! The API reference of the guide: all kinds with their fields, bounds and rules, from the CRDs.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use saphyr::{LoadableYamlNode as _, Yaml};

use crate::field_table::{part, read, rules, schema_of, table_of, version_of};

/// Where the reference is.
pub(crate) const PAGE: &str = "docs/src/api-reference.md";

/// The CRDs, in the order of the page.
const MANIFESTS: [&str; 5] =
    ["trainingruns", "clustertrainingruntimes", "trainingruntimes", "trainingislands", "trainingcheckpoints"];

const HEAD: &str = "# API reference

All kinds of the group `atoll.dev`. Written by `cargo xtask fields` from the CRDs in `crds/manifests`, which are generated from the API
types; `kubectl explain` shows the same words. The API server applies every type, bound and rule here; a [run file](run-files.md) is checked
by the same ones without a cluster.
";

/// The whole page.
pub(crate) fn page() -> Result<String> {
    let manifests = MANIFESTS.map(|name| read(&format!("crds/manifests/{name}.atoll.dev.yaml")));
    let mut page = HEAD.to_owned();
    let mut written: Vec<(String, String)> = Vec::new();
    for manifest in manifests {
        let documents = Yaml::load_from_str(&manifest?)?;
        let crd = documents.first().context("a manifest is empty")?;
        let (name, fields) = (kind(crd)?, fields(crd)?);
        let same = written
            .iter()
            .find(|(_, other)| *other == fields)
            .map(|(other, _)| format!("\nIts fields are those of [{other}](#{}).\n", other.to_lowercase()));
        write!(page, "\n## {name}\n\n{}{}", header(crd)?, same.as_ref().unwrap_or(&fields))?;
        written.push((name, fields));
    }
    Ok(page)
}

fn kind(crd: &Yaml<'_>) -> Result<String> {
    text(crd, &["spec", "names", "kind"]).context("a manifest has no kind")
}

/// The text below a path of names.
fn text(node: &Yaml<'_>, path: &[&str]) -> Option<String> {
    let found = path.iter().try_fold(node, |node, name| node.as_mapping_get(name))?;
    found.as_str().map(str::to_owned)
}

/// The texts called `key` in a list.
fn names(list: Option<&Yaml<'_>>, key: &str) -> Vec<String> {
    let items = list.and_then(Yaml::as_sequence).into_iter().flatten();
    items.filter_map(|item| text(item, &[key])).map(|name| name.trim_start_matches('.').to_owned()).collect()
}

/// What the kind is, and how kubectl shows it.
fn header(crd: &Yaml<'_>) -> Result<String> {
    let version = version_of(crd).context("a manifest has no version")?;
    let schema = schema_of(version).context("a manifest has no schema")?;
    let name = |path: &[&str]| text(crd, path).unwrap_or_default();
    let short = crd
        .as_mapping_get("spec")
        .and_then(|spec| spec.as_mapping_get("names")?.as_mapping_get("shortNames")?.as_sequence_get(0)?.as_str());
    let mut header = format!(
        "{}\n\n`{}/{}`, {}, `kubectl get {}`.",
        text(schema, &["description"]).unwrap_or_default(),
        name(&["spec", "group"]),
        text(version, &["name"]).unwrap_or_default(),
        if name(&["spec", "scope"]) == "Cluster" { "of the whole cluster" } else { "in a namespace" },
        short.unwrap_or_default(),
    );
    let columns = names(version.as_mapping_get("additionalPrinterColumns"), "name");
    write!(header, " Columns: {}.", columns.join(", "))?;
    if let Some(path) = text(version, &["subresources", "scale", "specReplicasPath"]) {
        write!(header, " `kubectl scale` changes `{}`.", path.trim_start_matches('.'))?;
    }
    let selectable = names(version.as_mapping_get("selectableFields"), "jsonPath");
    if !selectable.is_empty() {
        write!(header, " `--field-selector` knows `{}`.", selectable.join("`, `"))?;
    }
    for rule in rules(schema) {
        write!(header, " Rule: {rule}.")?;
    }
    header.push('\n');
    Ok(header)
}

/// Rules and fields of spec and status.
fn fields(crd: &Yaml<'_>) -> Result<String> {
    let schema = version_of(crd).and_then(schema_of).context("a manifest has no schema")?;
    let mut fields = String::new();
    for (name, title) in [("spec", "Spec"), ("status", "Status")] {
        let part = part(schema, name).with_context(|| format!("a manifest has no {name}"))?;
        write!(fields, "\n### {title}\n\n")?;
        let rules: Vec<String> = rules(part).iter().map(|rule| format!("- {rule}\n")).collect();
        if !rules.is_empty() {
            write!(fields, "Rules:\n\n{}\n", rules.concat())?;
        }
        writeln!(fields, "{}", table_of(part))?;
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_there_with_what_kubectl_shows_its_rules_and_its_fields() {
        let page = page().unwrap();
        for text in [
            "## TrainingRun\n",
            "`kubectl scale` changes `spec.workers.target`.",
            "`--field-selector` knows `status.phase`.",
            "- rounds.quorum.min must be at most workers.target\n",
            "| `progress.loss` | number |",
            "## ClusterTrainingRuntime\n",
            "| `failurePolicy.rules[].action` |",
            "## TrainingRuntime\n",
            "Its fields are those of [ClusterTrainingRuntime](#clustertrainingruntime).",
            "## TrainingIsland\n",
            "## TrainingCheckpoint\n",
            "| `conditions[].type` |",
        ] {
            assert!(page.contains(text), "{text}");
        }
        assert!(page.lines().filter(|line| line.starts_with('|')).all(|line| line.ends_with('|')));
    }
}
