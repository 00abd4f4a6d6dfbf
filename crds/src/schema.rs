//! The schema that a document is checked against: of a run file it is the one in the CRD manifest.
//!
//! A keyword that is not known here is an error, so no rule of the manifest is left out on this machine in silence.

use std::{collections::BTreeMap, path::Path, sync::LazyLock};

use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Value, json};

use crate::{TRAINING_RUN_CRD, document::parse, problem::Report};

/// The schema of a `TrainingRun` file: the manifest's, and the header that every Kubernetes object has.
pub(crate) static TRAINING_RUN: LazyLock<Schema> =
    LazyLock::new(|| training_run(TRAINING_RUN_CRD).expect("a test reads the manifest that is built in"));

/// Type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
    /// An integer or text (`x-kubernetes-int-or-string`): the only value whose type the manifest does not name.
    #[serde(skip)]
    IntegerOrText,
}

/// A structural schema (Kubernetes, `apiextensions.k8s.io/v1`), as far as the API types use it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Schema {
    #[serde(rename = "type", default = "untyped")]
    pub(crate) kind: Kind,
    #[serde(default)]
    pub(crate) default: Option<Value>,
    #[serde(default)]
    pub(crate) description: String,
    #[serde(default)]
    pub(crate) properties: BTreeMap<String, Schema>,
    #[serde(default)]
    pub(crate) required: Vec<String>,
    #[serde(default)]
    pub(crate) additional_properties: Option<Box<Schema>>,
    #[serde(default)]
    pub(crate) max_properties: Option<usize>,
    #[serde(default)]
    pub(crate) items: Option<Box<Schema>>,
    #[serde(default)]
    pub(crate) min_items: usize,
    #[serde(default)]
    pub(crate) max_items: Option<usize>,
    #[serde(default)]
    pub(crate) minimum: Option<f64>,
    #[serde(default)]
    pub(crate) maximum: Option<f64>,
    #[serde(default)]
    pub(crate) exclusive_minimum: bool,
    #[serde(default)]
    pub(crate) exclusive_maximum: bool,
    #[serde(default)]
    pub(crate) min_length: Option<usize>,
    #[serde(default)]
    pub(crate) max_length: Option<usize>,
    #[serde(default)]
    pub(crate) pattern: Option<String>,
    #[serde(default, rename = "enum")]
    pub(crate) choices: Vec<String>,
    #[serde(default, rename = "x-kubernetes-validations")]
    pub(crate) rules: Vec<Rule>,
    /// Whether members that are not named in `properties` are kept, whatever they are.
    #[serde(default, rename = "x-kubernetes-preserve-unknown-fields")]
    pub(crate) open: bool,
    /// How wide a number is, or what a text means; numbers of a format are bounded by it.
    #[serde(default)]
    #[cfg_attr(not(test), expect(dead_code, reason = "fields with a format are in statuses, which files do not give"))]
    pub(crate) format: Option<String>,
    #[serde(default, rename = "x-kubernetes-int-or-string")]
    _integer_or_text: IgnoredAny,
    /// How two appliers' lists become one; a file has one applier.
    #[serde(default, rename = "x-kubernetes-list-type")]
    #[cfg_attr(not(test), expect(dead_code, reason = "only a server merges lists"))]
    pub(crate) list_type: Option<String>,
    #[serde(default, rename = "x-kubernetes-list-map-keys")]
    _list_map_keys: IgnoredAny,
    /// A field without a value is absent, whether it is nullable or not.
    #[serde(default, rename = "nullable")]
    _nullable: IgnoredAny,
    #[serde(default, rename = "title")]
    _title: IgnoredAny,
}

fn untyped() -> Kind {
    Kind::IntegerOrText
}

/// A CEL rule over `self`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Rule {
    #[serde(rename = "rule")]
    pub(crate) expression: String,
    pub(crate) message: String,
    #[serde(default)]
    pub(crate) field_path: Option<String>,
}

impl Rule {
    /// Whether it compares a change with what was there before; a file has no before.
    pub(crate) fn is_of_changes(&self) -> bool {
        self.expression.contains("oldSelf")
    }
}

impl Schema {
    /// Reads the YAML of a schema that is built in.
    ///
    /// # Errors
    /// What is wrong with it; a keyword that is not known here is.
    pub fn read(text: &str) -> Result<Self, Box<dyn std::error::Error>> {
        let mut report = Report::new(Path::new("schema"));
        let tree = parse(text, &mut report);
        Ok(serde_json::from_value(report.finish(tree)?.to_json())?)
    }

    /// What would be right, in words: "an integer from 1 to 64".
    pub(crate) fn expectation(&self) -> String {
        match self.kind {
            Kind::Object if self.open => "write a map".into(),
            Kind::Object if self.properties.is_empty() && self.additional_properties.is_none() => "write {}".into(),
            Kind::Object if self.properties.is_empty() => "write a map of names to text".into(),
            Kind::Object => format!("write a map with {}", self.names()),
            Kind::Array => format!("write a list of {}", self.sizes()),
            Kind::Boolean => "write true or false".into(),
            Kind::Integer => format!("write an integer{}", self.range()),
            Kind::Number => format!("write a number{}", self.range()),
            Kind::String => self.text_expectation(),
            Kind::IntegerOrText => {
                format!("write an integer{}, or {}", self.range(), self.text_expectation().trim_start_matches("write "))
            }
        }
    }

    /// Names of the fields, for the eye; of those that a user is to write.
    pub(crate) fn names(&self) -> String {
        let written = self.properties.iter().filter(|(_, property)| !property.open);
        written.map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
    }

    fn sizes(&self) -> String {
        match self.max_items {
            Some(most) => format!("{} to {most} items", self.min_items),
            None => format!("at least {} items", self.min_items),
        }
    }

    fn text_expectation(&self) -> String {
        match (self.choices.as_slice(), &self.pattern, self.min_length, self.max_length) {
            ([only], ..) => format!("write {only}"),
            ([_, ..], ..) => format!("write one of {}", self.choices.join(", ")),
            (_, Some(pattern), _, Some(most)) => format!("write text of at most {most} characters like {pattern}"),
            (_, Some(pattern), ..) => format!("write text like {pattern}"),
            (_, _, Some(least), Some(most)) => format!("write text of {least} to {most} characters"),
            _ => "write text".into(),
        }
    }

    fn range(&self) -> String {
        let low = self.minimum.map(|low| if self.exclusive_minimum { format!("greater than {low}") } else { low.to_string() });
        let high = self.maximum.map(|high| if self.exclusive_maximum { format!("less than {high}") } else { high.to_string() });
        match (low, high) {
            (Some(low), Some(high)) if !self.exclusive_minimum && !self.exclusive_maximum => format!(" from {low} to {high}"),
            (Some(low), Some(high)) => {
                let low = if self.exclusive_minimum { low } else { format!("of at least {low}") };
                let high = if self.exclusive_maximum { high } else { format!("at most {high}") };
                format!(" {low} and {high}")
            }
            (Some(low), None) if self.exclusive_minimum => format!(" {low}"),
            (Some(low), None) => format!(" of at least {low}"),
            _ => String::new(),
        }
    }
}

/// A CRD as JSON, and the schema of its first version.
fn read(manifest: &str) -> Result<(Value, Schema), Box<dyn std::error::Error>> {
    let mut report = Report::new(Path::new("manifest"));
    let tree = parse(manifest, &mut report);
    let crd = report.finish(tree)?.to_json();
    let schema = serde_json::from_value(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone())?;
    Ok((crd, schema))
}

/// The schema in a CRD manifest with the header that Kubernetes keeps out of it.
fn training_run(manifest: &str) -> Result<Schema, Box<dyn std::error::Error>> {
    let (crd, mut schema) = read(manifest)?;
    let version = &crd["spec"]["versions"][0];
    let api_version = format!("{}/{}", text(&crd["spec"]["group"]), text(&version["name"]));
    let header: BTreeMap<String, Schema> = serde_json::from_value(json!({
        "apiVersion": { "type": "string", "enum": [api_version] },
        "kind": { "type": "string", "enum": [crd["spec"]["names"]["kind"]] },
        "metadata": metadata(),
        // Kubernetes takes no status from a file either.
        "status": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
    }))?;
    schema.required.extend(header.keys().filter(|name| *name != "status").cloned());
    schema.properties.extend(header);
    Ok(schema)
}

/// The part of Kubernetes' own object metadata that a file may give.
fn metadata() -> Value {
    let texts = json!({ "type": "object", "additionalProperties": { "type": "string" } });
    json!({
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": { "type": "string" },
            "namespace": { "type": "string", "maxLength": 63, "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$" },
            "labels": texts,
            "annotations": texts,
            "creationTimestamp": { "type": "string" },
            "generation": { "type": "integer" },
            "resourceVersion": { "type": "string" },
            "uid": { "type": "string" },
        },
    })
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CRDS, spec::CLUSTER_ONLY};

    fn visit(schema: &Schema, path: &str, seen: &mut impl FnMut(&str, &Schema)) {
        seen(path, schema);
        for (name, property) in &schema.properties {
            visit(property, &format!("{path}.{name}"), seen);
        }
        if let Some(items) = &schema.items {
            visit(items, &format!("{path}[]"), seen);
        }
        if let Some(values) = &schema.additional_properties {
            visit(values, &format!("{path}[]"), seen);
        }
    }

    #[test]
    fn every_field_of_every_kind_is_bounded_and_described() {
        for crd in CRDS {
            let (_, schema) = read(crd.text).unwrap();
            assert!(!schema.description.is_empty(), "{}", crd.file);
            for part in ["spec", "status"] {
                visit(&schema.properties[part], part, &mut |path, schema| {
                    assert!(!schema.description.is_empty() || path.ends_with("[]"), "{path} of {} has no description", crd.file);
                    assert!(is_bounded(schema) || path == "spec.seed", "{path} of {} is unbounded", crd.file);
                    assert!(schema.rules.is_empty() || schema.kind == Kind::Object, "{path}: rules of objects alone are applied");
                });
            }
        }
    }

    fn is_bounded(schema: &Schema) -> bool {
        match schema.kind {
            Kind::Integer => schema.minimum.is_some() && (schema.maximum.is_some() || schema.format.is_some()),
            Kind::String => schema.max_length.is_some() || !schema.choices.is_empty() || schema.format.is_some(),
            Kind::IntegerOrText => schema.minimum.is_some() && schema.max_length.is_some(),
            Kind::Object => schema.additional_properties.is_none() || schema.max_properties.is_some(),
            Kind::Array => schema.max_items.is_some() && schema.list_type.is_some(),
            Kind::Number | Kind::Boolean => true,
        }
    }

    #[test]
    fn a_keyword_that_is_not_checked_here_is_an_error() {
        assert!(serde_json::from_value::<Schema>(json!({ "type": "string", "not": {} })).is_err());
    }

    #[test]
    fn fields_that_only_a_cluster_reads_exist() {
        let spec = &TRAINING_RUN.properties["spec"];
        for path in CLUSTER_ONLY {
            let field = path.split('.').try_fold(spec, |schema, name| schema.properties.get(name));
            assert!(field.is_some(), "{path}");
        }
    }

    #[test]
    fn expectations_read_as_words() {
        let spec = &TRAINING_RUN.properties["spec"];
        let dataset = &spec.properties["dataset"];
        let adam = &spec.properties["optimizer"].properties["adamW"];
        let rounds = &spec.properties["rounds"];
        for (schema, words) in [
            (&spec.properties["workers"].properties["min"], "write an integer from 1 to 64"),
            (&spec.properties["seed"], "write an integer of at least 0"),
            (&dataset.properties["heldOutFraction"], "write a number greater than 0 and less than 0.5"),
            (&adam.properties["beta1"], "write a number of at least 0 and less than 1"),
            (&adam.properties["learningRate"], "write a number greater than 0"),
            (&rounds.properties["stragglerPolicy"], "write one of Wait, Drop"),
            (&dataset.properties["tokenizer"], "write a map with characters, file"),
            (&dataset.properties["tokenizer"].properties["characters"], "write {}"),
        ] {
            assert_eq!(schema.expectation(), words);
        }
    }
}
