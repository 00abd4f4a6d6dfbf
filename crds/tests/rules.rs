//! Every CEL rule of the manifests has a case that only this rule refuses, here and in kube's evaluation.

mod cases;

use std::{collections::BTreeSet, path::Path};

use atoll_crds::{CRDS, load};
use saphyr::{LoadableYamlNode, Yaml};
use serde_json::Value;

use crate::cases::{CASES, Cases};

/// All problems that the validation of run files finds; JSON is YAML.
fn problems_of_load(run: &Value) -> Vec<atoll_crds::Problem> {
    load(Path::new("run.yaml"), &run.to_string(), &[]).map_or_else(|problems| problems.0, |_| Vec::new())
}

/// What it says would be right.
fn refusals_of_load(run: &Value) -> Vec<String> {
    problems_of_load(run).into_iter().map(|problem| problem.help).collect()
}

/// Messages of all rules in a part of a manifest.
fn messages<'a>(node: &'a Yaml<'_>, found: &mut Vec<&'a str>) {
    match node {
        Yaml::Mapping(members) => {
            for (key, value) in members {
                match (key.as_str(), value.as_vec()) {
                    (Some("x-kubernetes-validations"), Some(rules)) => {
                        found.extend(rules.iter().map(|rule| rule["message"].as_str().expect("every rule has a message")));
                    }
                    _ => messages(value, found),
                }
            }
        }
        Yaml::Sequence(items) => items.iter().for_each(|item| messages(item, found)),
        _ => {}
    }
}

fn runs() -> &'static Cases {
    &CASES["TrainingRun"]
}

#[test]
fn every_rule_on_runs_refuses_its_case_and_no_other_rule_does() {
    for case in &runs().refused {
        assert_eq!(refusals_of_load(&runs().changed(&case.change)), [case.rule.as_str()], "{}", case.change);
    }
}

#[test]
fn what_the_schema_of_runs_refuses_names_its_field() {
    for case in &runs().refused_by_schema {
        let problems = problems_of_load(&runs().changed(&case.change));
        assert_eq!(problems.iter().map(|problem| problem.path.as_str()).collect::<Vec<_>>(), [case.field.as_str()]);
    }
}

#[test]
fn every_rule_of_every_kind_has_a_case() {
    for crd in CRDS {
        let manifest = &Yaml::load_from_str(crd.text).unwrap()[0];
        let mut found = Vec::new();
        messages(manifest, &mut found);
        let rules: BTreeSet<&str> = found.iter().copied().collect();
        assert_eq!(rules.len(), found.len(), "two rules of {} have one message", crd.file);
        let kind = manifest["spec"]["names"]["kind"].as_str().unwrap();
        assert_eq!(CASES[kind].rules().collect::<BTreeSet<_>>(), rules, "{kind}");
    }
}

#[test]
fn what_the_rules_allow_on_runs_is_accepted() {
    for change in &runs().accepted {
        assert_eq!(refusals_of_load(&runs().changed(change)), [""; 0], "{change}");
    }
}

#[test]
fn rules_on_changes_do_not_concern_files() {
    for case in runs().changes.accepted.iter().chain(&runs().changes.refused) {
        let (before, after) = runs().before_and_after(case);
        assert_eq!(refusals_of_load(&before), [""; 0], "{before}");
        assert_eq!(refusals_of_load(&after), [""; 0], "{after}");
    }
}

#[cfg(feature = "kube")]
mod kube_evaluation {
    use kube::core::cel::Validator;

    use super::*;

    fn schema_of(kind: &str) -> Value {
        use atoll_crds::{island::TrainingIsland, kept::TrainingCheckpoint, runtime, spec::TrainingRun};
        use kube::CustomResourceExt;

        let crd = match kind {
            "TrainingRun" => TrainingRun::crd(),
            "ClusterTrainingRuntime" => runtime::ClusterTrainingRuntime::crd(),
            "TrainingRuntime" => runtime::TrainingRuntime::crd(),
            "TrainingIsland" => TrainingIsland::crd(),
            "TrainingCheckpoint" => TrainingCheckpoint::crd(),
            other => panic!("no kind {other}"),
        };
        serde_json::to_value(crd).expect("a CRD is JSON")["spec"]["versions"][0]["schema"]["openAPIV3Schema"].take()
    }

    fn refusals(schema: &Value, object: &Value, before: Option<&Value>) -> Vec<String> {
        match Validator::new().validate(schema, object, before) {
            Ok(()) => Vec::new(),
            Err(errors) => errors.into_vec().into_iter().map(|error| error.message).collect(),
        }
    }

    #[test]
    fn every_case_is_decided_alike() {
        for (kind, cases) in CASES.iter() {
            let schema = schema_of(kind);
            for case in &cases.refused {
                assert_eq!(refusals(&schema, &cases.changed(&case.change), None), [case.rule.as_str()], "{}", case.change);
            }
            for change in &cases.accepted {
                assert_eq!(refusals(&schema, &cases.changed(change), None), [""; 0], "{change}");
            }
        }
    }

    #[test]
    fn every_change_is_decided_as_the_table_says() {
        for (kind, cases) in CASES.iter() {
            let schema = schema_of(kind);
            for case in &cases.changes.refused {
                let (before, after) = cases.before_and_after(case);
                assert_eq!(refusals(&schema, &after, Some(&before)), [case.rule.as_str()], "{} to {}", case.from, case.to);
            }
            for case in &cases.changes.accepted {
                let (before, after) = cases.before_and_after(case);
                assert_eq!(refusals(&schema, &after, Some(&before)), [""; 0], "{} to {}", case.from, case.to);
            }
        }
    }
}
