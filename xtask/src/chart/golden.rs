//! What the chart becomes, as files that are read when it changes. CRDs are left out: they are copies of others.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

/// What Helm printed, without CRDs and trailing space.
pub(super) fn kept(text: &str) -> String {
    let documents = text.trim_start_matches("---\n").split("\n---\n");
    let documents = documents.filter(|document| !document.contains("\nkind: CustomResourceDefinition\n"));
    let documents: Vec<&str> = documents.map(str::trim).filter(|document| !document.is_empty()).collect();
    documents.join("\n---\n").lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// Whether `file` holds `text`; with `write` it does afterwards, and did not is no fault.
pub(super) fn holds(file: &Path, text: &str, write: bool) -> Result<bool> {
    let before = fs::read_to_string(file).unwrap_or_default();
    if before == text {
        return Ok(true);
    }
    if write {
        let context = || format!("cannot write {}", file.display());
        fs::create_dir_all(file.parent().unwrap_or(Path::new("."))).with_context(context)?;
        fs::write(file, text).with_context(context)?;
    }
    Ok(write)
}

/// The first line in which two texts differ.
pub(super) fn first_difference(before: &str, after: &str) -> String {
    let mut after_lines = after.lines();
    for (index, line) in before.lines().enumerate() {
        let now = after_lines.next();
        if now != Some(line) {
            return format!("line {}: {:?} is now {:?}", index + 1, line.trim(), now.unwrap_or_default().trim());
        }
    }
    format!("{} more lines", after_lines.count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_of_kinds_are_left_out() {
        let text = "---\n# Source: a\nkind: Service \n\n---\n# Source: b\napiVersion: v1\nkind: CustomResourceDefinition\na: b\n";
        assert_eq!(kept(text), "# Source: a\nkind: Service\n");
    }

    #[test]
    fn a_file_is_written_only_when_it_is_to_be() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("golden/a.yaml");
        assert!(!holds(&file, "a\n", false).unwrap());
        assert!(holds(&file, "a\n", true).unwrap());
        assert!(holds(&file, "a\n", false).unwrap());
    }

    #[test]
    fn the_first_difference_is_told() {
        assert_eq!(first_difference("a\nb\n", "a\nc\n"), "line 2: \"b\" is now \"c\"");
        assert_eq!(first_difference("a\n", "a\nb\nc\n"), "2 more lines");
    }
}
