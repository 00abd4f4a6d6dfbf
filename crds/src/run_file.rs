//! A `TrainingRun` file, read and checked.

use std::path::Path;

use serde_json::Value as Json;

use crate::{
    checked_file::CheckedFile,
    document::{Node, Value, parse},
    overrides::set,
    problem::{Problem, Problems, Report, excerpt},
    schema::TRAINING_RUN,
    spec::{CLUSTER_ONLY, Model, Tokenizer, TrainingRunSpec},
};

/// A run as its file describes it. It passed every rule of the API.
#[derive(Debug, Clone, PartialEq)]
pub struct RunFile {
    /// Name of the run.
    pub name: String,
    /// Namespace of the run in a cluster.
    pub namespace: Option<String>,
    /// What to train, and how.
    pub spec: TrainingRunSpec,
    /// Paths of fields that were given and that only a cluster reads, such as `spec.placement`.
    pub unused: Vec<String>,
    checked: CheckedFile,
}

impl RunFile {
    /// A problem with the field at `path` that shows only outside the file, such as a folder that does not exist. Its place is
    /// where the field was given; for a default, where the nearest field above it was.
    #[must_use]
    pub fn problem(&self, path: &str, message: impl Into<String>, help: impl Into<String>) -> Problem {
        self.checked.problem(path, message, help)
    }

    /// What the run reads and only a cluster can fetch: from stores, the web, volumes and ConfigMaps. Empty where this machine can
    /// train.
    #[must_use]
    pub fn needs_cluster(&self) -> Vec<Problem> {
        let mut inputs = vec![("spec.dataset.source.uri", &self.spec.dataset.source.uri)];
        if let Tokenizer::File { uri, .. } = &self.spec.dataset.tokenizer {
            inputs.push(("spec.dataset.tokenizer.file.uri", uri));
        }
        if let Model::Source { uri, .. } = &self.spec.model {
            inputs.push(("spec.model.source.uri", uri));
        }
        let far = inputs.into_iter().filter(|(_, uri)| uri.contains("://") && !uri.starts_with("file://"));
        far.map(|(path, uri)| {
            let message = format!("found {}, which only a cluster fetches", excerpt(uri));
            self.problem(path, message, "give a path or file: URI here, or apply the run to a cluster")
        })
        .collect()
    }
}

/// Reads a run from `text`, the content of `file`, with `overrides` (path, YAML value) put over it in their order, and applies
/// every rule of the API as the API server does: types, required and unknown fields, ranges, and rules between fields.
///
/// # Errors
/// All problems at once.
pub fn load(file: &Path, text: &str, overrides: &[(String, String)]) -> Result<RunFile, Problems> {
    let mut report = Report::new(file);
    let Some(mut document) = parse(text, &mut report) else { return report.finish(None) };
    for (path, value) in overrides {
        set(&mut document, path, value, &mut report);
    }
    let checked = CheckedFile::new(file, &document, &TRAINING_RUN, &mut report);
    let spec = (report.len() == 0).then(|| serde_json::from_value(checked.value["spec"].clone()));
    if let Some(Err(error)) = &spec {
        report.add(&document.place, "spec", format!("found a value that the types refuse ({error})"), "report this as a bug");
    }
    let run = spec.and_then(Result::ok).map(|spec| RunFile {
        name: text_at(&checked.value, "/metadata/name").unwrap_or_default(),
        namespace: text_at(&checked.value, "/metadata/namespace"),
        spec,
        unused: unused(&document),
        checked,
    });
    report.finish(run)
}

fn text_at(object: &Json, pointer: &str) -> Option<String> {
    object.pointer(pointer).and_then(Json::as_str).map(str::to_owned)
}

fn unused(document: &Node) -> Vec<String> {
    CLUSTER_ONLY
        .iter()
        .map(|path| format!("spec.{path}"))
        .filter(|path| path.split('.').try_fold(document, Node::get).is_some_and(|node| node.value != Value::Null))
        .collect()
}
