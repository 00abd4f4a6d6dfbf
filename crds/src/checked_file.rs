//! A file as its schema takes it, and where its values were given.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde_json::Value as Json;

use crate::{
    check::Check,
    document::{Node, parse},
    problem::{Place, Problem, Problems, Report},
    schema::Schema,
};

/// A file that passed every rule of its schema.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckedFile {
    /// What it holds, with defaults.
    pub value: Json,
    file: PathBuf,
    places: BTreeMap<String, Place>,
}

impl CheckedFile {
    /// Reads `text`, the content of `file`, and applies `schema`.
    ///
    /// # Errors
    /// All problems at once.
    pub fn read(file: &Path, text: &str, schema: &Schema) -> Result<Self, Problems> {
        let mut report = Report::new(file);
        let checked = parse(text, &mut report).map(|document| Self::new(file, &document, schema, &mut report));
        report.finish(checked)
    }

    /// What `document` holds, if nothing is reported.
    pub(crate) fn new(file: &Path, document: &Node, schema: &Schema, report: &mut Report) -> Self {
        let mut check = Check { report, places: BTreeMap::new() };
        let value = check.value(document, schema, "");
        Self { value, file: file.to_owned(), places: check.places }
    }

    /// A problem with the value at `path` that the schema does not know of. Its place is where the value was given; for a
    /// default, where the nearest value above it was.
    #[must_use]
    pub fn problem(&self, path: &str, message: impl Into<String>, help: impl Into<String>) -> Problem {
        let mut above = path;
        let place = loop {
            match (self.places.get(above), above.rfind(['.', '['])) {
                (Some(place), _) => break place.clone(),
                (None, Some(end)) => above = &above[..end],
                (None, None) => break Place::File { line: 1, column: 1 },
            }
        };
        Problem { file: self.file.clone(), place, path: path.to_owned(), message: message.into(), help: help.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMA: &str = "{type: array, minItems: 1, maxItems: 2, items: {type: object, required: [name], properties: {
        name: {type: string, maxLength: 3}, of: {type: array, items: {type: integer, minimum: 1}}}}}";

    fn read(text: &str) -> Result<CheckedFile, String> {
        CheckedFile::read(Path::new("list.yaml"), text, &Schema::read(SCHEMA).unwrap()).map_err(|problems| problems.to_string())
    }

    #[test]
    fn what_is_wrong_in_a_list_is_named_by_its_index() {
        let refused = |text: &str| read(text).unwrap_err();
        assert_eq!(refused("- {name: a, of: [1, 0]}"), "list.yaml:1:21: [0].of[1]: found 0; write an integer of at least 1");
        assert_eq!(refused("- name: a\n- of: [1]"), "list.yaml:2:3: [1].name: missing; write text");
        assert_eq!(refused("[]"), "list.yaml:1:1: found a list of 0; write a list of 1 to 2 items");
        assert_eq!(refused("name: a"), "list.yaml:1:1: found a map; write a list of 1 to 2 items");
    }

    #[test]
    fn a_problem_that_shows_later_is_placed_at_the_value_or_above_it() {
        let checked = read("- name: a\n- name: b\n  of: [4]").unwrap();
        assert_eq!(checked.value, serde_json::json!([{ "name": "a" }, { "name": "b", "of": [4] }]));
        assert_eq!(checked.problem("[1].of[0]", "4 is odd", "give 5").to_string(), "list.yaml:3:8: [1].of[0]: 4 is odd; give 5");
        assert_eq!(checked.problem("[0].of", "missing", "give 5").to_string(), "list.yaml:1:3: [0].of: missing; give 5");
    }
}
