//! YAML as JSON values, which are easier to ask.

use anyhow::{Context as _, Result, bail};
use saphyr::{LoadableYamlNode as _, Yaml};
use serde_json::{Map, Value};

/// The documents of `text`; empty ones are left out.
pub(super) fn documents(text: &str) -> Result<Vec<Value>> {
    let documents = Yaml::load_from_str(text).context("not YAML")?;
    let values = documents.iter().map(value).collect::<Result<Vec<_>>>()?;
    Ok(values.into_iter().filter(|value| !value.is_null()).collect())
}

/// The one document of `text`.
pub(super) fn document(text: &str) -> Result<Value> {
    documents(text)?.into_iter().next().context("no document")
}

fn value(yaml: &Yaml<'_>) -> Result<Value> {
    if let Some(fields) = yaml.as_mapping() {
        let mut object = Map::new();
        for (name, field) in fields {
            let name = name.as_str().context("a key that is no text")?;
            object.insert(name.to_owned(), value(field)?);
        }
        return Ok(Value::Object(object));
    }
    if let Some(items) = yaml.as_sequence() {
        return items.iter().map(value).collect::<Result<Vec<_>>>().map(Value::Array);
    }
    if yaml.is_null() {
        return Ok(Value::Null);
    }
    let scalar = yaml.as_bool().map(Value::from).or_else(|| yaml.as_integer().map(Value::from));
    let scalar = scalar.or_else(|| yaml.as_floating_point().map(Value::from)).or_else(|| yaml.as_str().map(Value::from));
    let Some(scalar) = scalar else { bail!("neither mapping, list nor scalar: {yaml:?}") };
    Ok(scalar)
}

/// The text at a JSON pointer; empty where there is none.
pub(super) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The items of the list at a JSON pointer; none where there is no list.
pub(super) fn items<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The texts of the list at a JSON pointer.
pub(super) fn texts<'a>(value: &'a Value, pointer: &str) -> Vec<&'a str> {
    items(value, pointer).iter().filter_map(Value::as_str).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn scalars_keep_their_types_and_empty_documents_are_left_out() {
        let text = "a: [1, \"1\", true, 0.5, null]\n---\n# nothing\n---\nb: {c: d}\n";
        assert_eq!(documents(text).unwrap(), [json!({"a": [1, "1", true, 0.5, null]}), json!({"b": {"c": "d"}})]);
        assert!(documents("a: [").is_err());
    }
}
