//! Whether the CRDs take what those of an earlier commit took.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};
use atoll_crds::{CRDS, breaks};

use crate::{
    figures::{Figure, Figures},
    paths,
    tally::Tally,
};

/// Compares each manifest with the one of `earlier`, a commit or a folder of manifests.
pub(crate) fn perform(earlier: &str) -> Result<Tally> {
    let mut figures = Figures::default();
    for file in files(earlier)? {
        let new = CRDS.iter().find(|crd| name(crd.file) == file);
        let breaks = match new {
            Some(new) => breaks(&text(earlier, &file)?, new.text).map_err(|error| anyhow::anyhow!("{file}: {error}"))?,
            None => vec!["the kind is gone".to_owned()],
        };
        figures.0.push(Figure::none(file, &breaks));
    }
    Ok(figures.conclude("crds"))
}

fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Names of the manifests that there were.
fn files(earlier: &str) -> Result<Vec<String>> {
    if Path::new(earlier).is_dir() {
        let entries = fs::read_dir(earlier).with_context(|| format!("cannot read {earlier}"))?;
        let mut names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect::<Result<Vec<_>>>()?;
        names.retain(|name| Path::new(name).extension().is_some_and(|extension| extension == "yaml"));
        names.sort();
        return Ok(names);
    }
    let listed = git(&["ls-tree", "--name-only", earlier, "crds/manifests/"])?;
    Ok(listed.lines().map(|path| name(path).to_owned()).collect())
}

fn text(earlier: &str, file: &str) -> Result<String> {
    if Path::new(earlier).is_dir() {
        return fs::read_to_string(Path::new(earlier).join(file)).with_context(|| format!("cannot read {file} of {earlier}"));
    }
    git(&["show", &format!("{earlier}:crds/manifests/{file}")])
}

fn git(arguments: &[&str]) -> Result<String> {
    let output = Command::new("git").arg("-C").arg(paths::root()).args(arguments).output().context("cannot start git")?;
    if !output.status.success() {
        bail!("git {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    String::from_utf8(output.stdout).context("git writes no UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifests_break_nothing_of_their_own_folder() {
        let folder = paths::root().join("crds/manifests");
        let tally = perform(folder.to_str().unwrap()).unwrap();
        assert_eq!((tally.passed, tally.failed), (CRDS.len(), 0));
    }

    #[test]
    fn a_field_that_an_earlier_manifest_had_is_missed() {
        let folder = tempfile::tempdir().unwrap();
        let file = name(CRDS[0].file);
        fs::write(folder.path().join(file), CRDS[0].text.replace("stragglerPolicy:", "lateness:")).unwrap();
        assert_eq!(perform(folder.path().to_str().unwrap()).unwrap().failed, 1);
        fs::write(folder.path().join("others.yaml"), "{}").unwrap();
        assert_eq!(perform(folder.path().to_str().unwrap()).unwrap().failed, 2);
    }
}
