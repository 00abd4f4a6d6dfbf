//! What is made from other files: the tables of values, the CRDs in the chart, and what the chart says of itself.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{
    golden,
    helm::Rendered,
    values::{Described, table},
    yaml,
};
use crate::{markers, paths};

/// Pages with the table of values.
const PAGES: [&str; 2] = ["helm/atoll/README.md", "docs/src/values.md"];
const MANIFESTS: &str = "crds/manifests";
const COPIES: &str = "helm/atoll/files/crds";
const CHART: &str = "helm/atoll/Chart.yaml";
/// Annotation that has Helm leave an object.
const POLICY: &str = "helm.sh/resource-policy";

/// Pages whose table is not that of the values; with `write` they have it afterwards.
pub(super) fn drifted(values: &[Described], write: bool) -> Result<Vec<String>> {
    let mut drifted = Vec::new();
    for name in PAGES {
        let file = paths::root().join(name);
        let page = fs::read_to_string(&file).with_context(|| format!("cannot read {name}"))?;
        let wanted = markers::replace(&page, "values", &table(values))?;
        if !golden::holds(&file, &wanted, write)? {
            drifted.push(format!("{name}: {}", golden::first_difference(&page, &wanted)));
        }
    }
    Ok(drifted)
}

/// CRDs of the chart that are not those of the API types; with `write` they are afterwards.
pub(super) fn stale_copies(write: bool) -> Result<(usize, Vec<String>)> {
    let (manifests, copies) = (paths::root().join(MANIFESTS), paths::root().join(COPIES));
    let (wanted, there) = (files(&manifests)?, files(&copies).unwrap_or_default());
    let mut stale = Vec::new();
    for (name, text) in &wanted {
        if !golden::holds(&copies.join(name), text, write)? {
            stale.push(format!("{name} is not that of {MANIFESTS}"));
        }
    }
    for name in there.keys().filter(|name| !wanted.contains_key(*name)) {
        if write {
            fs::remove_file(copies.join(name)).with_context(|| format!("cannot remove {name}"))?;
        } else {
            stale.push(format!("{name} is not in {MANIFESTS}"));
        }
    }
    Ok((wanted.len(), stale))
}

/// CRDs that the chart makes and that are not the manifests, or that Helm would remove though the values say otherwise.
pub(super) fn changed_definitions(rendered: &Rendered, keep: bool) -> Result<Vec<String>> {
    let manifests = files(&paths::root().join(MANIFESTS))?;
    let wanted = manifests.values().map(|text| yaml::document(text)).collect::<Result<Vec<Value>>>()?;
    let mut changed = Vec::new();
    for definition in rendered.of("CustomResourceDefinition") {
        let name = yaml::text(definition, "/metadata/name");
        let mut made = definition.clone();
        let annotations = made.pointer_mut("/metadata").and_then(|metadata| metadata.as_object_mut()?.remove("annotations"));
        let kept = annotations.is_some_and(|annotations| annotations.get(POLICY).is_some_and(|policy| policy == "keep"));
        if kept != keep {
            changed.push(format!("{name} is {} on uninstall", if kept { "kept" } else { "removed" }));
        }
        if !wanted.contains(&made) {
            changed.push(format!("{name} is not as in {MANIFESTS}"));
        }
    }
    Ok(changed)
}

/// Where the chart's description differs from the workspace: its versions, and the kinds that it lists.
pub(super) fn misdescribed() -> Result<Vec<String>> {
    let chart = yaml::document(&fs::read_to_string(paths::root().join(CHART)).with_context(|| format!("cannot read {CHART}"))?)?;
    let version = env!("CARGO_PKG_VERSION");
    let wrong = ["version", "appVersion"].into_iter().filter(|field| yaml::text(&chart, &format!("/{field}")) != version);
    let mut faults: Vec<String> = wrong.map(|field| format!("{field} is not {version}")).collect();
    let listed = yaml::document(yaml::text(&chart, "/annotations/artifacthub.io~1crds"))?;
    let listed: Vec<&str> = listed.as_array().into_iter().flatten().map(|kind| yaml::text(kind, "/name")).collect();
    let manifests = files(&paths::root().join(MANIFESTS))?;
    let names: Vec<&str> = manifests.keys().map(|name| name.trim_end_matches(".yaml")).collect();
    faults.extend(names.iter().filter(|name| !listed.contains(name)).map(|name| format!("{name} is not in its annotations")));
    faults.extend(listed.iter().filter(|name| !names.contains(name)).map(|name| format!("{name} is in its annotations only")));
    Ok(faults)
}

/// Names and contents of the manifests in a folder.
fn files(folder: &Path) -> Result<BTreeMap<String, String>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files = BTreeMap::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            files.insert(name, fs::read_to_string(&path)?);
        }
    }
    Ok(files)
}
