//! `--set path=value`: fields given on the command line, put over those of the file before anything is checked.

use crate::{
    document::{Entry, Node, Value, parse},
    problem::{Place, Report},
};

/// Most names in a path; no field is as deep.
const LONGEST_PATH: usize = 16;

/// Puts `value`, YAML text, at `path` below the document's `spec`; the path may begin with `spec` or not. Maps on the way that
/// the file lacks are made. Problems go to `report`, with the path as their place.
pub(crate) fn set(document: &mut Node, path: &str, value: &str, report: &mut Report) {
    let place = Place::Override { path: path.to_owned() };
    let names: Vec<&str> = path.strip_prefix("spec.").unwrap_or(path).split('.').collect();
    if names.len() > LONGEST_PATH || names.iter().any(|name| name.is_empty()) {
        report.add(&place, "", "found a path that names no field", "write names with dots between them, as in workers.target");
        return;
    }
    let Some(value) = parse_value(value, &place, report) else { return };
    let mut target = document;
    let mut done = String::new();
    for name in std::iter::once("spec").chain(names) {
        let Value::Map(entries) = &mut target.value else {
            report.add(&place, &done, "found a value without fields", "set the whole field instead");
            return;
        };
        target = member(entries, name, &place);
        done = if done.is_empty() { name.to_owned() } else { format!("{done}.{name}") };
    }
    *target = value;
}

/// Reads the value; a problem in it is one of the override, whatever its line.
fn parse_value(text: &str, place: &Place, report: &mut Report) -> Option<Node> {
    if text.trim().is_empty() {
        report.add(place, "", "found no value", "write path=value, and null to take a field away");
        return None;
    }
    let mut own = report.beside();
    let value = parse(text, &mut own);
    report.absorb(own, place);
    value.map(|node| node.moved_to(place))
}

/// The value of `name` in a map, an empty map where there was none.
fn member<'a>(entries: &'a mut Vec<Entry>, name: &str, place: &Place) -> &'a mut Node {
    let index = entries.iter().position(|entry| entry.key == name).unwrap_or_else(|| {
        let absent = Node { place: place.clone(), value: Value::Null };
        entries.push(Entry { key: name.to_owned(), place: place.clone(), node: absent });
        entries.len() - 1
    });
    let node = &mut entries[index].node;
    if node.value == Value::Null {
        *node = Node { place: place.clone(), value: Value::Map(Vec::new()) };
    }
    node
}
