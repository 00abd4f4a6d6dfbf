//! What a new CRD manifest takes away from those who use the old one: stored objects that are refused, fields that are lost.

use std::{error::Error, path::Path};

use serde_json::Value;

use crate::{document::parse, problem::Report};

/// Keywords below which a value must not be.
const LEAST: [&str; 4] = ["minimum", "minLength", "minItems", "minProperties"];

/// Keywords above which a value must not be.
const MOST: [&str; 4] = ["maximum", "maxLength", "maxItems", "maxProperties"];

/// Every break between two manifests of one kind, as `PATH: what is no longer so`; none where every object that `old` took is taken
/// as it was, and every program finds the kind where it was. Rules in CEL are not compared.
///
/// # Errors
/// When a text is not YAML.
pub fn breaks(old: &str, new: &str) -> Result<Vec<String>, Box<dyn Error>> {
    let (old, new) = (read(old)?, read(new)?);
    let mut breaks = Vec::new();
    let parts = ["/spec/group", "/spec/scope", "/spec/names/kind", "/spec/names/plural"];
    for part in parts.iter().filter(|part| old.pointer(part) != new.pointer(part)) {
        breaks.push(format!("{}: is {} now", part[1..].replace('/', "."), shown(new.pointer(part))));
    }
    for version in items(&old["spec"]["versions"]) {
        let name = version["name"].as_str().unwrap_or_default();
        match items(&new["spec"]["versions"])
            .find(|other| other["name"] == version["name"] && other["served"] == version["served"])
        {
            Some(other) => compare_versions(name, version, other, &mut breaks),
            None => breaks.push(format!("{name}: the version is gone")),
        }
    }
    Ok(breaks)
}

fn read(manifest: &str) -> Result<Value, Box<dyn Error>> {
    let mut report = Report::new(Path::new("manifest"));
    let tree = parse(manifest, &mut report);
    Ok(report.finish(tree)?.to_json())
}

fn compare_versions(name: &str, old: &Value, new: &Value, breaks: &mut Vec<String>) {
    for (subresource, definition) in members(&old["subresources"]) {
        if new["subresources"].get(subresource) != Some(definition) {
            breaks.push(format!("{name}: the subresource {subresource} is another"));
        }
    }
    for field in items(&old["selectableFields"]).filter(|field| !items(&new["selectableFields"]).any(|other| other == *field)) {
        breaks.push(format!("{name}: objects cannot be selected by {} any more", shown(field.get("jsonPath"))));
    }
    compare("", &old["schema"]["openAPIV3Schema"], &new["schema"]["openAPIV3Schema"], breaks);
}

/// Compares the schemas of the field at `path`.
fn compare(path: &str, old: &Value, new: &Value, breaks: &mut Vec<String>) {
    let mut say = |what: String| breaks.push(format!("{path}: {what}"));
    if old.get("type") != new.get("type") {
        return say(format!("the type is {} now, and was {}", shown(new.get("type")), shown(old.get("type"))));
    }
    for name in items(&new["required"]).filter(|name| !items(&old["required"]).any(|other| other == *name)) {
        say(format!("{} is required now", shown(Some(name))));
    }
    narrowed(old, new).into_iter().for_each(&mut say);
    if open(old) && !open(new) {
        say("fields without a name of their own are lost".into());
    }
    for (name, field) in members(&old["properties"]) {
        let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        match new["properties"].get(name) {
            Some(other) => compare(&below, field, other, breaks),
            None => breaks.push(format!("{below}: the field is gone")),
        }
    }
    for keyword in ["items", "additionalProperties"] {
        match (old.get(keyword), new.get(keyword)) {
            (Some(old), Some(new)) => compare(&format!("{path}[]"), old, new, breaks),
            (Some(_), None) => breaks.push(format!("{path}[]: the values are gone")),
            (None, _) => {}
        }
    }
}

/// Which bounds of a value are closer than they were.
fn narrowed(old: &Value, new: &Value) -> Vec<String> {
    let number = |schema: &Value, keyword: &str| schema.get(keyword).and_then(Value::as_f64);
    let closer = |keyword: &&str, farther: fn(f64, f64) -> bool| match (number(old, keyword), number(new, keyword)) {
        (Some(old), Some(new)) => farther(old, new),
        (None, Some(_)) => true,
        (_, None) => false,
    };
    let least = LEAST.iter().filter(|keyword| closer(keyword, |old, new| new > old));
    let most = MOST.iter().filter(|keyword| closer(keyword, |old, new| new < old));
    let mut narrowed: Vec<String> = least
        .chain(most)
        .map(|keyword| format!("{keyword} is {} now, and was {}", shown(new.get(*keyword)), shown(old.get(*keyword))))
        .collect();
    let excluded = ["exclusiveMinimum", "exclusiveMaximum"];
    narrowed.extend(
        excluded
            .iter()
            .filter(|keyword| new[**keyword] == true && old[**keyword] != true)
            .map(|keyword| format!("{keyword} holds now")),
    );
    for keyword in ["pattern", "format"] {
        if new.get(keyword).is_some() && new.get(keyword) != old.get(keyword) {
            narrowed.push(format!("{keyword} is {} now, and was {}", shown(new.get(keyword)), shown(old.get(keyword))));
        }
    }
    match (old.get("enum"), new.get("enum")) {
        (None, Some(_)) => narrowed.push("only some values are taken now".into()),
        (Some(old), Some(new)) => {
            let lost = items(old).filter(|value| !items(new).any(|other| other == *value));
            narrowed.extend(lost.map(|value| format!("{} is no longer taken", shown(Some(value)))));
        }
        (_, None) => {}
    }
    narrowed
}

fn open(schema: &Value) -> bool {
    schema["x-kubernetes-preserve-unknown-fields"] == true
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn members(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn shown(value: Option<&Value>) -> String {
    match value {
        None => "nothing".into(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::CRDS;

    /// Breaks between two schemas of one field.
    fn between(old: Value, new: Value) -> Vec<String> {
        let crd = |field: Value| {
            let schema = json!({ "openAPIV3Schema": { "type": "object", "properties": { "a": field } } });
            json!({ "spec": { "versions": [{ "name": "v1", "served": true, "schema": schema }] } }).to_string()
        };
        breaks(&crd(old), &crd(new)).unwrap()
    }

    #[test]
    fn what_takes_something_away_is_named() {
        for (old, new, said) in [
            (json!({ "type": "string" }), json!({ "type": "integer" }), "a: the type is integer now, and was string"),
            (
                json!({ "x-kubernetes-int-or-string": true }),
                json!({ "type": "string" }),
                "a: the type is string now, and was nothing",
            ),
            (json!({ "properties": { "b": {} } }), json!({ "properties": {} }), "a.b: the field is gone"),
            (json!({ "required": ["b"] }), json!({ "required": ["b", "c"] }), "a: c is required now"),
            (json!({ "minimum": 1 }), json!({ "minimum": 2 }), "a: minimum is 2 now, and was 1"),
            (json!({ "maximum": 2.5 }), json!({ "maximum": 2 }), "a: maximum is 2 now, and was 2.5"),
            (json!({}), json!({ "maxLength": 9 }), "a: maxLength is 9 now, and was nothing"),
            (json!({ "maxItems": 3 }), json!({ "maxItems": 2 }), "a: maxItems is 2 now, and was 3"),
            (json!({ "minimum": 0 }), json!({ "minimum": 0, "exclusiveMinimum": true }), "a: exclusiveMinimum holds now"),
            (json!({ "pattern": "a" }), json!({ "pattern": "b" }), "a: pattern is b now, and was a"),
            (json!({ "enum": ["A", "B"] }), json!({ "enum": ["A", "C"] }), "a: B is no longer taken"),
            (json!({}), json!({ "enum": ["A"] }), "a: only some values are taken now"),
            (
                json!({ "items": { "maxLength": 2 } }),
                json!({ "items": { "maxLength": 1 } }),
                "a[]: maxLength is 1 now, and was 2",
            ),
            (json!({ "additionalProperties": {} }), json!({}), "a[]: the values are gone"),
            (
                json!({ "x-kubernetes-preserve-unknown-fields": true }),
                json!({ "properties": {} }),
                "a: fields without a name of their own are lost",
            ),
        ] {
            assert_eq!(between(old, new), [said]);
        }
    }

    #[test]
    fn what_only_gives_more_breaks_nothing() {
        for (old, new) in [
            (json!({ "properties": { "b": {} } }), json!({ "properties": { "b": {}, "c": { "maximum": 1 } } })),
            (json!({ "required": ["b"] }), json!({})),
            (json!({ "minimum": 1, "maximum": 2, "pattern": "a" }), json!({ "minimum": 0, "maximum": 3 })),
            (json!({ "enum": ["A"] }), json!({ "enum": ["B", "A"] })),
            (json!({ "description": "a", "default": 1 }), json!({ "description": "b", "default": 2 })),
        ] {
            assert_eq!(between(old, new), [""; 0]);
        }
    }

    #[test]
    fn a_kind_stays_where_it_was() {
        let old = CRDS[0].text;
        assert_eq!(breaks(old, old).unwrap(), [""; 0]);
        for (from, to, said) in [
            ("scope: Namespaced", "scope: Cluster", "spec.scope: is Cluster now"),
            ("name: v1alpha1", "name: v1beta1", "v1alpha1: the version is gone"),
            (
                "specReplicasPath: \".spec.workers.target\"",
                "specReplicasPath: \".spec.workers.max\"",
                "v1alpha1: the subresource scale is another",
            ),
            (
                "- jsonPath: \".status.phase\"\n      served",
                "- jsonPath: \".spec.seed\"\n      served",
                "v1alpha1: objects cannot be selected by .status.phase any more",
            ),
        ] {
            assert!(old.contains(from), "{from}");
            assert_eq!(breaks(old, &old.replace(from, to)).unwrap(), [said]);
        }
    }
}
