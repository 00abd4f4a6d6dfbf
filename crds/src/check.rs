//! Comparison of a document with the schema: every problem, and the value with its defaults.

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::{Map, Value as Json};

use crate::{
    cel_rule::{fields_of, holds},
    document::{Entry, Node, Value},
    nearest::nearest,
    problem::{Place, Report, excerpt},
    schema::{Kind, Rule, Schema},
};

/// Largest magnitude up to which every integer is a double.
const EXACT_INTEGERS: f64 = 9_007_199_254_740_992.0;

/// Checks documents; collects problems and the places of all fields that were given.
pub(crate) struct Check<'a> {
    pub(crate) report: &'a mut Report,
    pub(crate) places: BTreeMap<String, Place>,
}

impl Check<'_> {
    /// Checks `node`, the value at `path`, and returns it with defaults filled in. When there were problems the value is what
    /// was given, as far as JSON can hold it.
    pub(crate) fn value(&mut self, node: &Node, schema: &Schema, path: &str) -> Json {
        self.places.insert(path.to_owned(), node.place.clone());
        match (schema.kind, &node.value) {
            (Kind::Object, Value::Map(entries)) => return self.object(node, entries, schema, path),
            (Kind::Array, Value::List(items)) if list_fits(items, schema) => return self.list(items, schema, path),
            (Kind::String, Value::Text(text)) if text_fits(text, schema) => {}
            (Kind::Boolean, Value::Boolean(_)) => {}
            (Kind::Integer, Value::Integer(integer)) if in_range(*integer as f64, schema) => {}
            (Kind::Integer, Value::Number(number))
                if number.fract() == 0.0 && number.abs() <= EXACT_INTEGERS && in_range(*number, schema) =>
            {
                return (*number as i64).into();
            }
            (Kind::Number, Value::Integer(integer)) if in_range(*integer as f64, schema) => {}
            (Kind::Number, Value::Number(number)) if number.is_finite() && in_range(*number, schema) => {}
            (Kind::IntegerOrText, Value::Integer(integer)) if in_range(*integer as f64, schema) => {}
            (Kind::IntegerOrText, Value::Text(text)) if text_fits(text, schema) => {}
            _ => self.report.add(&node.place, path, format!("found {}", found(&node.value)), schema.expectation()),
        }
        node.to_json()
    }

    fn list(&mut self, items: &[Node], schema: &Schema, path: &str) -> Json {
        let Some(each) = &schema.items else { return Json::Array(items.iter().map(Node::to_json).collect()) };
        items.iter().enumerate().map(|(index, item)| self.value(item, each, &format!("{path}[{index}]"))).collect()
    }

    fn object(&mut self, node: &Node, entries: &[Entry], schema: &Schema, path: &str) -> Json {
        let before = self.report.len();
        let mut members = Map::new();
        for entry in entries {
            let below = join(path, &excerpt(&entry.key.escape_debug().to_string()));
            match schema.properties.get(&entry.key).or(schema.additional_properties.as_deref()) {
                None if schema.open => drop(members.insert(entry.key.clone(), entry.node.to_json())),
                None => self.unknown(entry, schema, &below),
                Some(_) if entry.node.value == Value::Null => {}
                Some(property) => {
                    members.insert(entry.key.clone(), self.value(&entry.node, property, &below));
                }
            }
        }
        if schema.max_properties.is_some_and(|most| members.len() > most) {
            let most = schema.max_properties.unwrap_or_default();
            self.report.add(&node.place, path, format!("found {} names", members.len()), format!("give at most {most}"));
        }
        for name in schema.required.iter().filter(|name| !members.contains_key(*name)) {
            let property = &schema.properties[name];
            let help = format!("{}{}", property.expectation(), purpose(property));
            self.report.add(&node.place, &join(path, name), "missing", help);
        }
        fill(&mut members, schema);
        let value = Json::Object(members);
        let flawed = self.report.len() > before;
        for rule in schema.rules.iter().filter(|rule| !rule.is_of_changes()) {
            self.rule(rule, flawed, node, schema, &value, path);
        }
        value
    }

    fn unknown(&mut self, entry: &Entry, schema: &Schema, path: &str) {
        let names = schema.properties.keys().map(String::as_str);
        let help = match nearest(&entry.key, names) {
            Some(name) => format!("did you mean {name}?"),
            None if schema.properties.is_empty() => "this map has no fields".into(),
            None => format!("known fields are {}", schema.names()),
        };
        self.report.add(&entry.place, path, "unknown field", help);
    }

    /// Applies one rule. Where the value is already `flawed`, a rule without an answer adds nothing.
    fn rule(&mut self, rule: &Rule, flawed: bool, node: &Node, schema: &Schema, value: &Json, path: &str) {
        let message = match holds(&rule.expression, schema, value) {
            Ok(true) => return,
            Err(_) if flawed => return,
            Err(error) => error.to_string(),
            Ok(false) => String::new(),
        };
        let fields = fields_of(&rule.expression);
        let blamed = match (&rule.field_path, fields.as_slice()) {
            (Some(field), _) => field.trim_start_matches('.'),
            (None, [only]) => only,
            (None, _) => "",
        };
        let message = match (message.as_str(), blamed) {
            ("", "") => format!("found {}", members_given(node, &fields)),
            ("", field) => match value.pointer(&format!("/{}", field.replace('.', "/"))) {
                Some(value) if given(node, field).is_some() => format!("found {}", excerpt(&value.to_string())),
                Some(value) => format!("found {} by default", excerpt(&value.to_string())),
                None => "missing".into(),
            },
            (error, _) => error.to_owned(),
        };
        let place = nearest_place(node, blamed);
        self.report.add(place, &join(path, blamed), message, rule.message.as_str());
    }
}

/// Gives absent members their defaults, also inside defaults.
fn fill(members: &mut Map<String, Json>, schema: &Schema) {
    for (name, property) in &schema.properties {
        if let (false, Some(default)) = (members.contains_key(name), &property.default) {
            let mut default = default.clone();
            if let Json::Object(members) = &mut default {
                fill(members, property);
            }
            members.insert(name.clone(), default);
        }
    }
}

fn list_fits(items: &[Node], schema: &Schema) -> bool {
    items.len() >= schema.min_items && schema.max_items.is_none_or(|most| items.len() <= most)
}

fn text_fits(text: &str, schema: &Schema) -> bool {
    let length = text.chars().count();
    let listed = schema.choices.is_empty() || schema.choices.iter().any(|choice| choice == text);
    let matches = schema.pattern.as_ref().is_none_or(|pattern| Regex::new(pattern).is_ok_and(|regex| regex.is_match(text)));
    listed
        && matches
        && schema.min_length.is_none_or(|least| length >= least)
        && schema.max_length.is_none_or(|most| length <= most)
}

fn in_range(number: f64, schema: &Schema) -> bool {
    schema.minimum.is_none_or(|low| if schema.exclusive_minimum { number > low } else { number >= low })
        && schema.maximum.is_none_or(|high| if schema.exclusive_maximum { number < high } else { number <= high })
}

/// The value in words, short enough for one line.
fn found(value: &Value) -> String {
    match value {
        Value::Null => "nothing".into(),
        Value::Boolean(value) => value.to_string(),
        Value::Integer(value) => value.to_string(),
        Value::Number(value) => value.to_string(),
        Value::Text(text) => format!("text {}", excerpt(&format!("{text:?}"))),
        Value::List(items) => format!("a list of {}", items.len()),
        Value::Map(_) => "a map".into(),
    }
}

/// Which of `fields` a map has.
fn members_given(node: &Node, fields: &[&str]) -> String {
    let given: Vec<String> = fields
        .iter()
        .filter_map(|field| match &node.get(field)?.value {
            Value::Null => Some(format!("{field} without a value")),
            _ => Some((*field).to_owned()),
        })
        .collect();
    if given.is_empty() { format!("none of {}", fields.join(", ")) } else { given.join(" and ") }
}

/// The value at a dotted path below `node`.
fn given<'a>(node: &'a Node, field: &str) -> Option<&'a Node> {
    field.split('.').try_fold(node, Node::get)
}

/// The place of the value at a dotted path below `node`, or of the last map on the way that was given.
fn nearest_place<'a>(node: &'a Node, field: &str) -> &'a Place {
    let mut nearest = node;
    for name in field.split('.') {
        match nearest.get(name) {
            Some(below) => nearest = below,
            None => break,
        }
    }
    &nearest.place
}

/// The first sentence of what a field means.
fn purpose(schema: &Schema) -> String {
    match schema.description.split(". ").next().unwrap_or_default().trim_end_matches('.') {
        "" => String::new(),
        description => format!(" ({description})"),
    }
}

fn join(path: &str, name: &str) -> String {
    match (path, name) {
        ("", name) => name.to_owned(),
        (path, "") => path.to_owned(),
        (path, name) => format!("{path}.{name}"),
    }
}
