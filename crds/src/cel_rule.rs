//! Evaluation of the manifest's CEL rules, as the API server does it.

use std::collections::HashMap;

use cel::{Context, Program, Value as Cel};
use serde_json::Value as Json;

use crate::schema::{Kind, Schema};

/// Why a rule has no answer for a value.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RuleError {
    #[error("the rule is not CEL: {0}")]
    Text(#[from] cel::ParseErrors),
    #[error("the rule cannot be evaluated: {0}")]
    Evaluation(#[from] cel::ExecutionError),
    #[error("the rule is neither true nor false")]
    NotBoolean,
}

/// Whether `expression` is true of `value`, whose defaults are filled in.
///
/// # Errors
/// When the expression reads a field that is missing or has the wrong type, or is no rule.
pub(crate) fn holds(expression: &str, schema: &Schema, value: &Json) -> Result<bool, RuleError> {
    let program = Program::compile(expression)?;
    let mut context = Context::default();
    context.add_variable_from_value("self", cel_value(value, Some(schema)));
    match program.execute(&context)? {
        Cel::Bool(answer) => Ok(answer),
        _ => Err(RuleError::NotBoolean),
    }
}

/// Paths below `self` that a rule reads, each once.
pub(crate) fn fields_of(expression: &str) -> Vec<&str> {
    let mut fields = Vec::new();
    for part in expression.split("self.").skip(1) {
        let end = part.find(|c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '_')).unwrap_or(part.len());
        let mut field = &part[..end];
        if part[end..].starts_with('(') {
            field = field.rsplit_once('.').map_or("", |(target, _method)| target);
        }
        if !field.is_empty() && !fields.contains(&field) {
            fields.push(field);
        }
    }
    fields
}

/// CEL tells integers from real numbers; JSON does not, so the schema decides.
fn cel_value(value: &Json, schema: Option<&Schema>) -> Cel {
    let real = schema.is_some_and(|schema| schema.kind == Kind::Number);
    match value {
        Json::Null => Cel::Null,
        Json::Bool(value) => Cel::Bool(*value),
        Json::Number(number) => match number.as_i64() {
            Some(integer) if !real => Cel::Int(integer),
            _ => Cel::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => text.as_str().into(),
        Json::Array(items) => items.iter().map(|item| cel_value(item, None)).collect::<Vec<_>>().into(),
        Json::Object(members) => members
            .iter()
            .map(|(name, member)| {
                let schema = schema.and_then(|schema| schema.properties.get(name));
                (name.clone(), cel_value(member, schema))
            })
            .collect::<HashMap<String, Cel>>()
            .into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_a_rule_are_found_once_and_without_method_names() {
        assert_eq!(fields_of("!has(self.max) || self.target <= self.max"), ["max", "target"]);
        assert_eq!(fields_of("self.metadata.name.matches('^a$')"), ["metadata.name"]);
        assert_eq!(fields_of("size(self) > 0"), [""; 0]);
    }
}
