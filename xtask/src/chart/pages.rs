//! What is made from other files: the tables of values, and the CRDs in the chart.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result};

use super::{
    golden,
    values::{Described, table},
};
use crate::{markers, paths};

/// Pages with the table of values.
const PAGES: [&str; 2] = ["helm/atoll/README.md", "docs/src/values.md"];
const MANIFESTS: &str = "crds/manifests";
const COPIES: &str = "helm/atoll/files/crds";

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
