//! The values of the chart with what their comments say, and the table of them in the documentation.

use std::fmt::Write as _;

use anyhow::{Result, ensure};
use serde_json::Value;

use super::yaml;

/// A value that has a comment. What is below it belongs to it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Described {
    /// Names from the root.
    pub(super) path: Vec<String>,
    /// What the chart has.
    pub(super) default: Value,
    /// Its comment.
    pub(super) text: String,
}

/// All values of a `values.yaml`.
///
/// # Errors
/// Names those that no comment describes.
pub(super) fn described(source: &str) -> Result<Vec<Described>> {
    let values = yaml::document(source)?;
    let entries = entries(source);
    let below = |entry: &Entry, other: &Entry| other.path.len() > entry.path.len() && other.path.starts_with(&entry.path);
    let bare: Vec<String> = entries
        .iter()
        .filter(|entry| entry.text.is_empty())
        .filter(|entry| !entries.iter().any(|other| !other.text.is_empty() && (below(entry, other) || below(other, entry))))
        .map(|entry| entry.path.join("."))
        .collect();
    ensure!(bare.is_empty(), "values without a comment: {}", bare.join(", "));
    let described = entries.into_iter().filter(|entry| !entry.text.is_empty());
    let described = described.map(|Entry { path, text }| {
        let default = path.iter().try_fold(&values, |value, name| value.get(name)).cloned().unwrap_or_default();
        Described { path, default, text }
    });
    Ok(described.collect())
}

#[derive(Debug)]
struct Entry {
    path: Vec<String>,
    text: String,
}

/// Keys of mappings, with the comments right above them.
fn entries(source: &str) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut above: Vec<(usize, String)> = Vec::new();
    let mut comment: Vec<&str> = Vec::new();
    for line in source.lines() {
        let content = line.trim_start();
        let indent = line.len() - content.len();
        if let Some(text) = content.strip_prefix('#') {
            comment.push(text.trim());
            continue;
        }
        if let Some((name, _)) = content.split_once(':').filter(|_| !content.starts_with("- ")) {
            above.retain(|(outer, _)| *outer < indent);
            above.push((indent, name.trim_matches('"').to_owned()));
            entries.push(Entry { path: above.iter().map(|(_, name)| name.clone()).collect(), text: comment.join(" ") });
        }
        comment.clear();
    }
    entries
}

/// One row per value.
pub(super) fn table(values: &[Described]) -> String {
    let mut table = "| value | default | meaning |\n|---|---|---|".to_owned();
    for Described { path, default, text } in values {
        let default = if default.is_null() { String::new() } else { format!("`{default}`") };
        let text = text.replace('|', "\\|");
        let _ = write!(table, "\n| `{}` | {default} | {text} |", path.join("."));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "# About the file.\n\n# Names\n# of objects.\nname: \"\"\n\nimage:\n  # Where it is.\n  registry: \
                          example\n  # Requests.\n  resources:\n    requests:\n      cpu: 10m\n  # Peers.\n  dns:\n    - a:\n        b: c\n";

    #[test]
    fn a_value_has_its_comment_and_takes_what_is_below_it() {
        let expected = "\
| value | default | meaning |
|---|---|---|
| `name` | `\"\"` | Names of objects. |
| `image.registry` | `\"example\"` | Where it is. |
| `image.resources` | `{\"requests\":{\"cpu\":\"10m\"}}` | Requests. |
| `image.dns` | `[{\"a\":{\"b\":\"c\"}}]` | Peers. |";
        assert_eq!(table(&described(SOURCE).unwrap()), expected);
    }

    #[test]
    fn a_value_without_a_comment_is_named() {
        let error = described("# One.\none: 1\n\ntwo: 2\nthree:\n  four: 4\n").unwrap_err().to_string();
        assert_eq!(error, "values without a comment: two, three, three.four");
    }
}
