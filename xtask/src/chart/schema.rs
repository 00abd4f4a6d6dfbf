//! The schema of the values: it has every value, knows no other, and refuses what is out of bounds with words that help.

use anyhow::Result;
use serde_json::Value;

use super::{helm::Helm, values::Described};

/// Values that must be refused, as they are given to Helm, and what it must say.
const REFUSED: [(&str, &str); 30] = [
    ("replicas=1", "additional properties 'replicas' not allowed"),
    ("operator.replica=1", "'/operator': additional properties 'replica' not allowed"),
    ("operator.replicas=0", "'/operator/replicas': minimum: got 0, want 1"),
    ("operator.replicas=10", "'/operator/replicas': maximum: got 10, want 9"),
    ("operator.replicas=\"2\"", "'/operator/replicas': got string, want integer"),
    ("operator.concurrency=0", "'/operator/concurrency': minimum"),
    ("operator.concurrency=257", "'/operator/concurrency': maximum"),
    ("operator.terminationGracePeriodSeconds=0", "'/operator/terminationGracePeriodSeconds': minimum"),
    ("operator.resources.limit={}", "'/operator/resources': additional properties 'limit' not allowed"),
    ("operator.resources.limits.memory=\"64 MB\"", "'/operator/resources/limits/memory'"),
    ("operator.extraEnv=[{\"value\":\"a\"}]", "missing property 'name'"),
    ("operator.log=\"\"", "'/operator/log': minLength"),
    ("operator.tolerations=[{\"effect\":\"NoScheduling\"}]", "'/operator/tolerations/0/effect': value must be one of"),
    ("image.pullPolicy=\"always\"", "value must be one of 'Always', 'IfNotPresent', 'Never'"),
    ("image.digest=\"sha256:12\"", "'/image/digest'"),
    ("image.registry=\"ghcr.io/atoll/\"", "'/image/registry'"),
    ("image.tag=\"a b\"", "'/image/tag'"),
    ("watchNamespaces=\"research\"", "'/watchNamespaces': got string, want array"),
    ("watchNamespaces=[\"Research\"]", "'/watchNamespaces/0'"),
    ("watchNamespaces=[\"a\",\"a\"]", "'/watchNamespaces': items at 0 and 1 are equal"),
    ("crds.enabled=\"yes\"", "'/crds/enabled': got string, want null or boolean"),
    ("nameOverride=\"Under_score\"", "'/nameOverride'"),
    ("networkPolicy.apiServerCidrs=[\"192.0.2.1\"]", "'/networkPolicy/apiServerCidrs/0'"),
    ("networkPolicy.apiServerPorts=[]", "'/networkPolicy/apiServerPorts': minItems"),
    ("networkPolicy.dns=[]", "'/networkPolicy/dns': minItems"),
    ("monitoring.rules.runbookUrl=\"runbooks\"", "'/monitoring/rules/runbookUrl'"),
    ("monitoring.rules.holdingSeconds=1", "'/monitoring/rules/holdingSeconds': minimum: got 1, want 30"),
    ("monitoring.podMonitor.interval=\"often\"", "'/monitoring/podMonitor/interval'"),
    ("runtime.pod.hostNetwork=true", "'/runtime/pod': additional properties 'hostNetwork' not allowed"),
    ("commonLabels={\"a b\":\"c\"}", "'/commonLabels': additional properties 'a b' not allowed"),
];

/// Where values and schema differ, and which values have no bounds.
pub(super) fn faults(schema: &Value, values: &[Described]) -> Vec<String> {
    let mut faults = Vec::new();
    for value in values {
        match node(schema, &value.path) {
            None => faults.push(format!("{} is not in the schema", value.path.join("."))),
            Some(node) if !bounded(node) => faults.push(format!("{} has no bounds", value.path.join("."))),
            Some(_) => {}
        }
    }
    let known = |path: &[String]| values.iter().any(|value| value.path == path);
    strict(schema, schema, &mut Vec::new(), &known, &mut faults);
    faults
}

fn resolved<'a>(root: &'a Value, node: &'a Value) -> &'a Value {
    let reference = node.get("$ref").and_then(Value::as_str).and_then(|reference| reference.strip_prefix('#'));
    reference.and_then(|pointer| root.pointer(pointer)).unwrap_or(node)
}

fn node<'a>(root: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(root, |node, name| Some(resolved(root, node.get("properties")?.get(name)?)))
}

/// Whether the schema says what a value may be, beyond its type.
fn bounded(node: &Value) -> bool {
    let has = |name: &str| node.get(name).is_some();
    match node.get("type").and_then(Value::as_str) {
        Some("string") => has("enum") || has("pattern") || has("maxLength"),
        Some("integer" | "number") => has("minimum") && has("maximum"),
        Some("array") => has("maxItems") && has("items"),
        Some(_) => true,
        None => has("type"),
    }
}

/// Descends to what `known` describes; all above it must list its properties, and allow no others.
fn strict(root: &Value, node: &Value, path: &mut Vec<String>, known: &dyn Fn(&[String]) -> bool, faults: &mut Vec<String>) {
    if known(path) {
        return;
    }
    let Some(properties) = resolved(root, node).get("properties").and_then(Value::as_object) else {
        faults.push(format!("{} is in the schema, and no value has a comment for it", path.join(".")));
        return;
    };
    if resolved(root, node).get("additionalProperties") != Some(&Value::Bool(false)) {
        faults.push(format!("/{} lets unknown values through", path.join("/")));
    }
    for (name, below) in properties {
        path.push(name.clone());
        strict(root, below, path, known, faults);
        path.pop();
    }
}

/// How many bad values were tried, and those that Helm takes, or refuses with other words.
pub(super) fn taken(helm: &Helm) -> Result<(usize, Vec<String>)> {
    let mut faults = Vec::new();
    for (value, words) in REFUSED {
        match helm.template(&["--set-json", value])? {
            Ok(_) => faults.push(format!("{value} is taken")),
            Err(said) if said.contains(words) => {}
            Err(said) => faults.push(format!("{value} is refused without the words {words:?}: {}", said.trim())),
        }
    }
    Ok((REFUSED.len(), faults))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::chart::values::described;

    fn schema() -> Value {
        json!({
            "definitions": {"name": {"type": "string", "maxLength": 9}},
            "additionalProperties": false,
            "properties": {
                "name": {"$ref": "#/definitions/name"},
                "image": {"additionalProperties": false, "properties": {"pull": {"type": "boolean"}}},
            },
        })
    }

    #[test]
    fn a_schema_of_all_values_and_no_others_has_no_faults() {
        let values = described("# One.\nname: a\nimage:\n  # Two.\n  pull: true\n").unwrap();
        assert_eq!(faults(&schema(), &values), [""; 0]);
    }

    #[test]
    fn what_only_one_side_has_is_named() {
        let values = described("# One.\nname: a\n# Two.\nother: true\n").unwrap();
        let missing = ["other is not in the schema", "image.pull is in the schema, and no value has a comment for it"];
        assert_eq!(faults(&schema(), &values), missing);
    }

    #[test]
    fn an_open_mapping_and_a_text_without_bounds_are_named() {
        let mut schema = schema();
        schema["definitions"]["name"] = json!({"type": "string"});
        schema["properties"]["image"]["additionalProperties"] = json!(true);
        let values = described("# One.\nname: a\nimage:\n  # Two.\n  pull: true\n").unwrap();
        assert_eq!(faults(&schema, &values), ["name has no bounds", "/image lets unknown values through"]);
    }
}
