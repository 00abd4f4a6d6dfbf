//! Fields of the API as tables, from the schemas and the descriptions of the CRDs.

use std::{fmt::Write as _, fs};

use anyhow::{Context as _, Result};
use saphyr::{LoadableYamlNode as _, Yaml};

use crate::{
    api_reference,
    figures::{Figure, Figures},
    markers, paths,
    tally::Tally,
};

const RUNS: &str = "crds/manifests/trainingruns.atoll.dev.yaml";
const GUIDE: &str = "docs/src/run-files.md";

/// Writes the tables into the guide and the API reference, or with `check` says whether they have drifted.
pub(crate) fn perform(check: bool) -> Result<Tally> {
    let guide = |page: &str| markers::replace(page, "fields", &sections(&read(RUNS)?)?);
    let figures = Figures(vec![written(GUIDE, check, guide)?, written(api_reference::PAGE, check, |_| api_reference::page())?]);
    println!("{}", figures.line("fields"));
    Ok(figures.tally())
}

/// Replaces a page by what `page` makes of it, unless it is only checked.
fn written(file: &str, check: bool, page: impl Fn(&str) -> Result<String>) -> Result<Figure> {
    let path = paths::root().join(file);
    let before = fs::read_to_string(&path).with_context(|| format!("cannot read {file}"))?;
    let after = page(&before)?;
    let current = before == after;
    if !check && !current {
        fs::write(&path, after)?;
    }
    let value = match (current, check) {
        (true, _) => "as the CRDs say",
        (false, false) => "written again",
        (false, true) => "drifted from the CRDs; cargo xtask fields writes it",
    };
    Ok(Figure::that(file, value, "as the CRDs say", current || !check))
}

/// The text of a manifest.
pub(crate) fn read(manifest: &str) -> Result<String> {
    fs::read_to_string(paths::root().join(manifest)).with_context(|| format!("cannot read {manifest}"))
}

/// One heading and one table for each field of the spec that has fields of its own, after one table of those that have none.
fn sections(manifest: &str) -> Result<String> {
    let documents = Yaml::load_from_str(manifest)?;
    let schema = documents.first().and_then(|crd| schema_of(version_of(crd)?)).context("the manifest has no schema")?;
    let spec = part(schema, "spec").context("the schema has no spec")?;
    let (mut plain, mut sections) = (Vec::new(), String::new());
    for (name, field) in properties(spec) {
        let mut rows = Vec::new();
        add_rows(name, field, required(spec, name), &mut rows);
        if rows.len() == 1 {
            plain.append(&mut rows);
        } else {
            write!(sections, "\n\n### `{name}`\n\n{}", table(&rows))?;
        }
    }
    Ok(format!("{}{sections}", table(&plain)))
}

/// The first version of a CRD.
pub(crate) fn version_of<'a, 'b>(crd: &'a Yaml<'b>) -> Option<&'a Yaml<'b>> {
    crd.as_mapping_get("spec")?.as_mapping_get("versions")?.as_sequence_get(0)
}

/// The schema of a version.
pub(crate) fn schema_of<'a, 'b>(version: &'a Yaml<'b>) -> Option<&'a Yaml<'b>> {
    version.as_mapping_get("schema")?.as_mapping_get("openAPIV3Schema")
}

/// The field called `name` of an object.
pub(crate) fn part<'a, 'b>(schema: &'a Yaml<'b>, name: &str) -> Option<&'a Yaml<'b>> {
    schema.as_mapping_get("properties")?.as_mapping_get(name)
}

/// One table of all fields below an object.
pub(crate) fn table_of(schema: &Yaml<'_>) -> String {
    let mut rows = Vec::new();
    for (name, field) in properties(schema) {
        add_rows(name, field, required(schema, name), &mut rows);
    }
    table(&rows)
}

/// How the messages of rules end that keep a field as it was given.
const FIXED: &str = " cannot be changed; make a new run for another";

/// What the rules of an object say; the fields that cannot be changed together.
pub(crate) fn rules(schema: &Yaml<'_>) -> Vec<String> {
    let all = schema.as_mapping_get("x-kubernetes-validations").and_then(Yaml::as_sequence);
    let messages = all.into_iter().flatten().filter_map(|rule| rule.as_mapping_get("message")?.as_str());
    let (mut fixed, mut rules) = (Vec::new(), Vec::new());
    for message in messages {
        match message.strip_suffix(FIXED) {
            Some(field) => fixed.push(field),
            None => rules.push(message.to_owned()),
        }
    }
    if !fixed.is_empty() {
        rules.push(format!("what cannot be changed, because another value makes another run: {}", fixed.join(", ")));
    }
    rules
}

fn properties<'a>(schema: &'a Yaml<'_>) -> Vec<(&'a str, &'a Yaml<'a>)> {
    let fields = schema.as_mapping_get("properties").and_then(Yaml::as_mapping);
    fields.into_iter().flatten().filter_map(|(name, field)| Some((name.as_str()?, field))).collect()
}

fn required(schema: &Yaml<'_>, name: &str) -> bool {
    let names = schema.as_mapping_get("required").and_then(Yaml::as_sequence);
    names.is_some_and(|names| names.iter().any(|required| required.as_str() == Some(name)))
}

/// A row for the field at `path`, and rows for the fields below it and in its items.
fn add_rows(path: &str, field: &Yaml<'_>, required: bool, rows: &mut Vec<String>) {
    let text = |name: &str| field.as_mapping_get(name).and_then(Yaml::as_str).unwrap_or_default();
    let mut meaning = text("description").to_owned();
    for rule in rules(field) {
        let _ = write!(meaning, " Rule: {rule}.");
    }
    let default = match field.as_mapping_get("default") {
        _ if required => "required".to_owned(),
        Some(value) if value.as_mapping().is_none() => scalar(value),
        _ => String::new(),
    };
    rows.push(format!("| `{path}` | {} | {default} | {} |", cell(&kind(field)), cell(meaning.trim())));
    add_rows_below(path, field, rows);
}

fn add_rows_below(path: &str, field: &Yaml<'_>, rows: &mut Vec<String>) {
    for (name, below) in properties(field) {
        add_rows(&format!("{path}.{name}"), below, required(field, name), rows);
    }
    if let Some(items) = field.as_mapping_get("items") {
        add_rows_below(&format!("{path}[]"), items, rows);
    }
}

/// Text that ends no cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

/// Type and bounds of a field, in words.
fn kind(field: &Yaml<'_>) -> String {
    let of = |name: &str| field.as_mapping_get(name);
    let holds = |name: &str| of(name).and_then(Yaml::as_bool) == Some(true);
    if let Some(values) = of("enum").and_then(Yaml::as_sequence) {
        return values.iter().map(scalar).collect::<Vec<_>>().join(" or ");
    }
    if let Some(values) = of("additionalProperties") {
        return format!("map of {}{}", kind(values), sizes(field, "Properties", "names"));
    }
    if let Some(items) = of("items") {
        return format!("list of {}{}", kind(items), sizes(field, "Items", "items"));
    }
    let mut kind = match of("type").and_then(Yaml::as_str) {
        _ if holds("x-kubernetes-int-or-string") => "integer or string",
        _ if holds("x-kubernetes-preserve-unknown-fields") => "any object",
        Some("string") if of("format").and_then(Yaml::as_str) == Some("date-time") => "time",
        named => named.unwrap_or("any"),
    }
    .to_owned();
    if let Some(least) = of("minimum") {
        let _ = write!(kind, " {} {}", if holds("exclusiveMinimum") { ">" } else { ">=" }, scalar(least));
    }
    if let Some(most) = of("maximum") {
        let joint = if of("minimum").is_some() { "," } else { "" };
        let _ = write!(kind, "{joint} {} {}", if holds("exclusiveMaximum") { "<" } else { "<=" }, scalar(most));
    }
    kind += &sizes(field, "Length", "characters");
    if let Some(pattern) = of("pattern").and_then(Yaml::as_str) {
        let _ = write!(kind, ", like `{pattern}`");
    }
    kind
}

/// Bounds of a size, as the end of a phrase.
fn sizes(field: &Yaml<'_>, keyword: &str, what: &str) -> String {
    let bound = |end: &str| field.as_mapping_get(&format!("{end}{keyword}")).map(scalar);
    match (bound("min"), bound("max")) {
        (Some(least), Some(most)) => format!(", {least} to {most} {what}"),
        (None, Some(most)) => format!(", at most {most} {what}"),
        (Some(least), None) => format!(", at least {least} {what}"),
        (None, None) => String::new(),
    }
}

fn scalar(value: &Yaml<'_>) -> String {
    if let Some(text) = value.as_str() {
        return text.to_owned();
    }
    if let Some(number) = value.as_integer() {
        return number.to_string();
    }
    if let Some(number) = value.as_floating_point() {
        return if number != 0.0 && number.abs() < 1e-4 { format!("{number:e}") } else { number.to_string() };
    }
    value.as_bool().map_or_else(String::new, |truth| truth.to_string())
}

fn table(rows: &[String]) -> String {
    format!("| field | type | default | meaning |\n|---|---|---|---|\n{}", rows.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = r#"
spec:
  versions:
    - schema:
        openAPIV3Schema:
          properties:
            spec:
              required: [method]
              properties:
                seed: {default: 0, description: Seeds the order., minimum: 0.0, type: integer}
                method:
                  description: How models become one.
                  type: object
                  properties:
                    rate: {default: 0.00000001, description: Step., exclusiveMinimum: true, minimum: 0.0, maximum: 1.0, type: number}
                    policy: {enum: [Wait, Drop], type: string, default: Drop}
                    limits: {additionalProperties: {x-kubernetes-int-or-string: true, pattern: "a|b"}, maxProperties: 2, type: object}
                    rules:
                      type: array
                      minItems: 1
                      maxItems: 3
                      items: {type: object, required: [name], properties: {name: {type: string, maxLength: 9}}}
                    since: {type: string, format: date-time}
                    affinity: {type: object, x-kubernetes-preserve-unknown-fields: true}
                  x-kubernetes-validations:
                    - {message: rate cannot be changed; make a new run for another, rule: "true"}
                    - {message: give exactly one, rule: "true"}
                    - {message: limits cannot be changed; make a new run for another, rule: "true"}
"#;

    #[test]
    fn every_field_has_a_row_with_type_bounds_default_and_meaning() {
        let expected = "\
| field | type | default | meaning |
|---|---|---|---|
| `seed` | integer >= 0 | 0 | Seeds the order. |

### `method`

| field | type | default | meaning |
|---|---|---|---|
| `method` | object | required | How models become one. Rule: give exactly one. \
Rule: what cannot be changed, because another value makes another run: rate, limits. |
| `method.rate` | number > 0, <= 1 | 1e-8 | Step. |
| `method.policy` | Wait or Drop | Drop |  |
| `method.limits` | map of integer or string, like `a\\|b`, at most 2 names |  |  |
| `method.rules` | list of object, 1 to 3 items |  |  |
| `method.rules[].name` | string, at most 9 characters | required |  |
| `method.since` | time |  |  |
| `method.affinity` | any object |  |  |";
        assert_eq!(sections(MANIFEST).unwrap(), expected);
    }

    #[test]
    fn a_manifest_without_schema_is_an_error() {
        assert!(sections("spec: {}").is_err());
    }

    #[test]
    fn the_projects_manifest_has_every_part_of_a_run() {
        let sections = sections(&read(RUNS).unwrap()).unwrap();
        for field in ["dataset.source.uri", "method.diLoCo.innerSteps", "rounds.livenessSeconds", "workers.target"] {
            assert!(sections.contains(&format!("| `{field}` |")), "{field}");
        }
    }
}
