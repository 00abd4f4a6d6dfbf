//! How the data and the model of a run get into its pods: from a volume, from a `ConfigMap`, or fetched before the trainer starts.

use atoll_crds::spec::{Model, SecretRef, Tokenizer, TrainingRunSpec};
use serde_json::{Value, json};

/// Folder of what is fetched.
const FETCHED: &str = "/scratch/fetched";
/// Folder of volumes.
const VOLUMES: &str = "/data";

/// Why something cannot be brought to a pod.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A scheme that only a local run knows.
    #[error(
        "{field} is {uri:?}: a cluster reads builtin:, pvc://CLAIM/PATH, configmap://NAME/KEY, s3://, gs://, az://, https:// and http://"
    )]
    Unreachable {
        /// Path of the field.
        field: &'static str,
        /// Its value.
        uri: String,
    },
    /// An address without its parts.
    #[error("{field} is {uri:?}: write {wanted}")]
    Incomplete {
        /// Path of the field.
        field: &'static str,
        /// Its value.
        uri: String,
        /// What it must look like.
        wanted: &'static str,
    },
}

/// One thing that a run reads.
#[derive(Debug, Clone, PartialEq)]
struct Input {
    /// Name of its volume, and of its folder.
    name: &'static str,
    /// Where it is in the pod.
    path: String,
    /// The volume that it is on; none where it is fetched.
    volume: Option<Value>,
    /// What the initializer is to fetch.
    fetch: Option<Value>,
    /// The Secret with the credentials for it.
    secret: Option<String>,
}

/// What a spec says of one thing to read.
struct Source<'a> {
    name: &'static str,
    field: &'static str,
    uri: &'a str,
    secret: Option<&'a SecretRef>,
    digest: Option<&'a String>,
}

/// All that a run reads and that is not built in.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Inputs {
    dataset: Option<Input>,
    tokenizer: Option<Input>,
    model: Option<Input>,
}

impl Inputs {
    /// What a run with this spec reads.
    ///
    /// # Errors
    /// Which field names what no pod can reach.
    pub fn of(spec: &TrainingRunSpec) -> Result<Self, DataError> {
        let tokenizer = match &spec.dataset.tokenizer {
            Tokenizer::Characters {} => None,
            Tokenizer::File { uri, secret_ref, digest } => input(&Source {
                name: "tokenizer",
                field: "spec.dataset.tokenizer.file.uri",
                uri,
                secret: secret_ref.as_ref(),
                digest: digest.as_ref(),
            })?,
        };
        let model = match &spec.model {
            Model::Source { uri, secret_ref, digest } => input(&Source {
                name: "model",
                field: "spec.model.source.uri",
                uri,
                secret: secret_ref.as_ref(),
                digest: digest.as_ref(),
            })?,
            Model::Architecture(_) => None,
        };
        let source = &spec.dataset.source;
        let dataset = input(&Source {
            name: "dataset",
            field: "spec.dataset.source.uri",
            uri: &source.uri,
            secret: source.secret_ref.as_ref(),
            digest: source.digest.as_ref(),
        })?;
        Ok(Self { dataset, tokenizer, model })
    }

    /// The spec as trainers read it: with paths in the pod.
    #[must_use]
    pub fn rewritten(&self, spec: &TrainingRunSpec) -> TrainingRunSpec {
        let mut spec = spec.clone();
        if let Some(input) = &self.dataset {
            spec.dataset.source.uri.clone_from(&input.path);
        }
        if let (Some(input), Tokenizer::File { uri, .. }) = (&self.tokenizer, &mut spec.dataset.tokenizer) {
            uri.clone_from(&input.path);
        }
        if let (Some(input), Model::Source { uri, .. }) = (&self.model, &mut spec.model) {
            uri.clone_from(&input.path);
        }
        spec
    }

    fn all(&self) -> impl Iterator<Item = &Input> {
        self.dataset.iter().chain(&self.tokenizer).chain(&self.model)
    }

    /// Volumes of the pod.
    pub(super) fn volumes(&self) -> Vec<Value> {
        self.all().filter_map(|input| input.volume.clone()).collect()
    }

    /// Where they are mounted, to be read alone.
    pub(super) fn mounts(&self) -> Vec<Value> {
        let on_volume = self.all().filter(|input| input.volume.is_some());
        on_volume
            .map(|input| json!({ "name": input.name, "mountPath": format!("{VOLUMES}/{}", input.name), "readOnly": true }))
            .collect()
    }

    /// Secrets with the credentials for what is fetched.
    pub(super) fn secrets(&self) -> Vec<Value> {
        let mut names: Vec<&String> = self.all().filter_map(|input| input.secret.as_ref()).collect();
        names.sort();
        names.dedup();
        names.into_iter().map(|name| json!({ "secretRef": { "name": name } })).collect()
    }

    /// What the initializer fetches.
    pub(super) fn fetches(&self) -> Vec<Value> {
        self.all().filter_map(|input| input.fetch.clone()).collect()
    }
}

fn input(source: &Source<'_>) -> Result<Option<Input>, DataError> {
    let Source { name, field, uri, secret, digest } = *source;
    let incomplete = |wanted| DataError::Incomplete { field, uri: uri.to_owned(), wanted };
    let Some((scheme, rest)) = uri.split_once(':') else {
        return Err(DataError::Unreachable { field, uri: uri.to_owned() });
    };
    let rest = rest.trim_start_matches('/');
    match scheme {
        "builtin" => Ok(None),
        "pvc" => {
            let (claim, path) = rest.split_once('/').unwrap_or((rest, ""));
            if claim.is_empty() {
                return Err(incomplete("pvc://CLAIM/PATH"));
            }
            let volume = json!({ "name": name, "persistentVolumeClaim": { "claimName": claim, "readOnly": true } });
            Ok(Some(Input { name, path: format!("{VOLUMES}/{name}/{path}"), volume: Some(volume), fetch: None, secret: None }))
        }
        "configmap" => {
            let Some((map, key)) = rest.split_once('/').filter(|(map, key)| !map.is_empty() && !key.is_empty()) else {
                return Err(incomplete("configmap://NAME/KEY"));
            };
            let volume = json!({ "name": name, "configMap": { "name": map, "items": [{ "key": key, "path": key }] } });
            Ok(Some(Input { name, path: format!("{VOLUMES}/{name}/{key}"), volume: Some(volume), fetch: None, secret: None }))
        }
        "s3" | "gs" | "az" | "https" | "http" => {
            let folder = format!("{FETCHED}/{name}");
            let last = rest.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
            let path = if name == "model" { folder.clone() } else { format!("{folder}/{last}") };
            let mut fetch = json!({ "uri": uri, "into": folder });
            if let Some(digest) = digest {
                fetch["digest"] = json!(digest);
            }
            let secret = secret.map(|secret| secret.name.clone());
            Ok(Some(Input { name, path, volume: None, fetch: Some(fetch), secret }))
        }
        _ => Err(DataError::Unreachable { field, uri: uri.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(uri: &str) -> Result<Option<Input>, String> {
        let source = Source { name: "dataset", field: "spec.dataset.source.uri", uri, secret: None, digest: None };
        input(&source).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_built_in_needs_nothing() {
        assert_eq!(of("builtin:kjv"), Ok(None));
    }

    #[test]
    fn volumes_are_mounted_and_the_rest_is_fetched() {
        let claim = of("pvc://corpora/books/kjv.txt").unwrap().unwrap();
        assert_eq!(claim.path, "/data/dataset/books/kjv.txt");
        assert_eq!(claim.volume.unwrap()["persistentVolumeClaim"]["claimName"], "corpora");
        let map = of("configmap://texts/kjv.txt").unwrap().unwrap();
        assert_eq!(map.path, "/data/dataset/kjv.txt");
        let fetched = of("https://example.org/a/kjv.txt").unwrap().unwrap();
        assert_eq!((fetched.path.as_str(), fetched.volume), ("/scratch/fetched/dataset/kjv.txt", None));
        assert_eq!(fetched.fetch.unwrap()["into"], "/scratch/fetched/dataset");
    }

    #[test]
    fn what_no_pod_can_reach_is_named_with_what_can_be_written() {
        for (uri, words) in [
            ("books/kjv.txt", "a cluster reads builtin:"),
            ("file:///books", "a cluster reads builtin:"),
            ("pvc://", "write pvc://CLAIM/PATH"),
            ("configmap://texts", "write configmap://NAME/KEY"),
        ] {
            let error = of(uri).unwrap_err();
            assert!(error.contains(uri) && error.contains(words), "{error}");
            assert!(error.starts_with("spec.dataset.source.uri"), "{error}");
        }
    }
}
