//! Cross-field rules of the API types, written once beside the types.
//!
//! The functions here put CEL rules into the schema as `x-kubernetes-validations`. The API server evaluates them there, and
//! the validation of run files evaluates the same text from the same manifest.

use schemars::{
    Schema,
    transform::{Transform, transform_subschemas},
};
use serde_json::{Map, Value, json};

/// A CEL rule over `self`, the sentence that says what would be right, and the path below `self` that gets the blame; empty for all of it.
pub(crate) fn rule(expression: &str, message: &str, field: &str) -> Value {
    match field {
        "" => json!({ "rule": expression, "message": message }),
        field => json!({ "rule": expression, "message": message, "fieldPath": field }),
    }
}

/// The transition rule that `field`, which is always there, stays as it was. `above` is the path to `self`, with a dot at its end.
pub(crate) fn fixed(above: &str, field: &str) -> Value {
    rule(&format!("self.{field} == oldSelf.{field}"), &fixed_message(above, field), &format!(".{field}"))
}

/// The same for a field that may be absent: it is neither added nor taken away.
pub(crate) fn fixed_option(above: &str, field: &str) -> Value {
    let expression =
        format!("has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})");
    rule(&expression, &fixed_message(above, field), &format!(".{field}"))
}

fn fixed_message(above: &str, field: &str) -> String {
    format!("{above}{field} cannot be changed; make a new run for another")
}

/// Turns the schema of an externally tagged enum into optional members plus the rule that exactly one is present. Description and
/// rules of a variant become those of its member.
pub(crate) fn exactly_one(schema: &mut Schema) {
    let Some(Value::Array(choices)) = schema.remove("oneOf") else { return };
    let mut members = Map::new();
    for mut choice in choices {
        let description = choice.get("description").cloned();
        let rules = choice.get("x-kubernetes-validations").cloned();
        let Some(Value::Object(properties)) = choice.get_mut("properties").map(Value::take) else { continue };
        members.extend(properties.into_iter().map(|(name, mut member)| {
            let of_choice = [("description", description.clone()), ("x-kubernetes-validations", rules.clone())];
            for (keyword, value) in of_choice.into_iter().filter_map(|(keyword, value)| Some((keyword, value?))) {
                if let Some(member) = member.as_object_mut() {
                    member.insert(keyword.into(), value);
                }
            }
            (name, member)
        }));
    }
    let names: Vec<&str> = members.keys().map(String::as_str).collect();
    let present: Vec<String> = names.iter().map(|name| format!("has(self.{name})")).collect();
    let (rule, message) = match (present.as_slice(), names.as_slice()) {
        ([only], [name]) => (only.clone(), format!("give {name}")),
        (several, names) => {
            let rule = format!("[{}].exists_one(present, present)", several.join(", "));
            (rule, format!("give exactly one of {}", names.join(", ")))
        }
    };
    schema.insert("x-kubernetes-validations".into(), json!([{ "rule": rule, "message": message }]));
    schema.insert("type".into(), "object".into());
    schema.insert("properties".into(), members.into());
}

/// Removes what a structural schema does not need: `null` beside another type (the API server drops nulls, and so an optional
/// field is absent or has a value) the formats of unsigned integers, which it does not know, and the line breaks of doc comments.
#[derive(Clone)]
pub(crate) struct Structural;

impl Transform for Structural {
    fn transform(&mut self, schema: &mut Schema) {
        transform_subschemas(self, schema);
        let Some(keywords) = schema.as_object_mut() else { return };
        if let Some(Value::String(text)) = keywords.get_mut("description") {
            *text = text.replace('\n', " ");
        }
        if let Some(Value::Array(types)) = keywords.get("type") {
            let named: Vec<&Value> = types.iter().filter(|name| **name != "null").collect();
            if let [only] = named.as_slice() {
                let only = (*only).clone();
                keywords.insert("type".into(), only);
            }
        }
        if let Some(Value::Array(choices)) = keywords.get("anyOf") {
            let typed: Vec<&Value> = choices.iter().filter(|choice| choice["type"] != "null").collect();
            if let [Value::Object(only)] = typed.as_slice() {
                let only = only.clone();
                keywords.remove("anyOf");
                for (name, value) in only {
                    keywords.entry(name).or_insert(value);
                }
            }
        }
        if keywords.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint")) {
            keywords.remove("format");
        }
    }
}
