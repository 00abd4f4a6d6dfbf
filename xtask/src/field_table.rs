//! The fields of a run, as tables of the user guide, from the schema and the descriptions of the CRD.

use std::{fmt::Write as _, fs};

use anyhow::{Context as _, Result};
use saphyr::{LoadableYamlNode as _, Yaml};

use crate::{
    figures::{Figure, Figures},
    markers, paths,
    tally::Tally,
};

const MANIFEST: &str = "crds/manifests/trainingruns.atoll.dev.yaml";
const GUIDE: &str = "docs/src/run-files.md";

/// Writes the tables into the guide, or with `check` says whether they have drifted.
pub(crate) fn perform(check: bool) -> Result<Tally> {
    let manifest = fs::read_to_string(paths::root().join(MANIFEST)).with_context(|| format!("cannot read {MANIFEST}"))?;
    let guide = paths::root().join(GUIDE);
    let page = fs::read_to_string(&guide).with_context(|| format!("cannot read {GUIDE}"))?;
    let written = markers::replace(&page, "fields", &tables(&manifest)?)?;
    let current = written == page;
    if !check && !current {
        fs::write(&guide, written)?;
    }
    let value = match (current, check) {
        (true, _) => "as the CRD says",
        (false, false) => "written again",
        (false, true) => "drifted from the CRD; cargo xtask fields writes it",
    };
    let figures = Figures(vec![Figure::that(GUIDE, value, "as the CRD says", current || !check)]);
    println!("{}", figures.line("fields"));
    Ok(figures.tally())
}

/// One heading and one table for each field of the spec that has fields of its own, after one table of those that have none.
fn tables(manifest: &str) -> Result<String> {
    let documents = Yaml::load_from_str(manifest)?;
    let spec = documents.first().and_then(spec_of).context("the manifest has no schema of a spec")?;
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

fn spec_of<'a, 'b>(crd: &'a Yaml<'b>) -> Option<&'a Yaml<'b>> {
    let version = crd.as_mapping_get("spec")?.as_mapping_get("versions")?.as_sequence_get(0)?;
    version.as_mapping_get("schema")?.as_mapping_get("openAPIV3Schema")?.as_mapping_get("properties")?.as_mapping_get("spec")
}

fn properties<'a>(schema: &'a Yaml<'_>) -> Vec<(&'a str, &'a Yaml<'a>)> {
    let fields = schema.as_mapping_get("properties").and_then(Yaml::as_mapping);
    fields.into_iter().flatten().filter_map(|(name, field)| Some((name.as_str()?, field))).collect()
}

fn required(schema: &Yaml<'_>, name: &str) -> bool {
    let names = schema.as_mapping_get("required").and_then(Yaml::as_sequence);
    names.is_some_and(|names| names.iter().any(|required| required.as_str() == Some(name)))
}

/// A row for the field at `path`, and rows for the fields below it.
fn add_rows(path: &str, field: &Yaml<'_>, required: bool, rows: &mut Vec<String>) {
    let text = |name: &str| field.as_mapping_get(name).and_then(Yaml::as_str).unwrap_or_default();
    let mut meaning = text("description").to_owned();
    for rule in field.as_mapping_get("x-kubernetes-validations").and_then(Yaml::as_sequence).into_iter().flatten() {
        let message = rule.as_mapping_get("message").and_then(Yaml::as_str).unwrap_or_default();
        let _ = write!(meaning, " Rule: {message}.");
    }
    let default = match field.as_mapping_get("default") {
        _ if required => "required".to_owned(),
        Some(value) if value.as_mapping().is_none() => scalar(value),
        _ => String::new(),
    };
    rows.push(format!("| `{path}` | {} | {default} | {} |", kind(field), meaning.replace('|', "\\|")));
    for (name, below) in properties(field) {
        add_rows(&format!("{path}.{name}"), below, self::required(field, name), rows);
    }
}

/// Type and range of a field, in words.
fn kind(field: &Yaml<'_>) -> String {
    let of = |name: &str| field.as_mapping_get(name);
    if let Some(values) = of("enum").and_then(Yaml::as_sequence) {
        return values.iter().map(scalar).collect::<Vec<_>>().join(" or ");
    }
    if of("additionalProperties").is_some() {
        return "map of strings".to_owned();
    }
    let mut kind = of("type").and_then(Yaml::as_str).unwrap_or("any").to_owned();
    let excluded = |name: &str| of(name).and_then(Yaml::as_bool) == Some(true);
    if let Some(least) = of("minimum") {
        let _ = write!(kind, " {} {}", if excluded("exclusiveMinimum") { ">" } else { ">=" }, scalar(least));
    }
    if let Some(most) = of("maximum") {
        let joint = if of("minimum").is_some() { "," } else { "" };
        let _ = write!(kind, "{joint} {} {}", if excluded("exclusiveMaximum") { "<" } else { "<=" }, scalar(most));
    }
    kind
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
                  x-kubernetes-validations: [{message: give exactly one, rule: "true"}]
"#;

    #[test]
    fn every_field_has_a_row_with_type_range_default_and_meaning() {
        let expected = "\
| field | type | default | meaning |
|---|---|---|---|
| `seed` | integer >= 0 | 0 | Seeds the order. |

### `method`

| field | type | default | meaning |
|---|---|---|---|
| `method` | object | required | How models become one. Rule: give exactly one. |
| `method.rate` | number > 0, <= 1 | 1e-8 | Step. |
| `method.policy` | Wait or Drop | Drop |  |";
        assert_eq!(tables(MANIFEST).unwrap(), expected);
    }

    #[test]
    fn a_manifest_without_schema_is_an_error() {
        assert!(tables("spec: {}").is_err());
    }

    #[test]
    fn the_projects_manifest_has_every_part_of_a_run() {
        let manifest = fs::read_to_string(paths::root().join(super::MANIFEST)).unwrap();
        let tables = tables(&manifest).unwrap();
        for field in ["dataset.source.uri", "method.diLoCo.innerSteps", "rounds.livenessSeconds", "workers.target"] {
            assert!(tables.contains(&format!("| `{field}` |")), "{field}");
        }
    }
}
