//! Every CEL rule of the manifest has a case that only this rule refuses, here and in kube's evaluation.

use std::{collections::BTreeSet, path::Path};

use atoll_crds::{TRAINING_RUN_CRD, load};
use saphyr::{LoadableYamlNode, Yaml};
use serde_json::{Value, json};

/// The rule's message, and a change of [`good_run`] that breaks this rule alone.
fn cases() -> Vec<(&'static str, Value)> {
    let spec = |change: Value| json!({ "spec": change });
    vec![
        (
            "the name must have at most 40 characters, because names of workers are made from it",
            json!({ "metadata": { "name": "a".repeat(41) } }),
        ),
        (
            "the name must begin with a letter, end with a letter or digit, and have only a-z, 0-9 and - in it",
            json!({ "metadata": { "name": "Bad_Name" } }),
        ),
        (
            "the name must begin with a letter, end with a letter or digit, and have only a-z, 0-9 and - in it",
            json!({ "metadata": { "name": "" } }),
        ),
        ("give exactly one of architecture, source", spec(json!({ "model": { "source": { "uri": "m" } } }))),
        ("give exactly one of architecture, source", spec(json!({ "model": { "architecture": null } }))),
        ("give llama", spec(json!({ "model": { "architecture": { "llama": null } } }))),
        (
            "hiddenSize must be a multiple of 2 * heads, because rotary embedding needs an even head size",
            spec(json!({ "model": { "architecture": { "llama": { "hiddenSize": 60 } } } })),
        ),
        ("give causalLanguageModel", spec(json!({ "objective": {} }))),
        ("give exactly one of characters, file", spec(json!({ "dataset": { "tokenizer": { "file": { "uri": "t" } } } }))),
        ("give exactly one of characters, file", spec(json!({ "dataset": { "tokenizer": { "characters": null } } }))),
        ("give exactly one of adamW, sgd", spec(json!({ "optimizer": { "sgd": { "learningRate": 1 } } }))),
        ("give exactly one of adamW, sgd", spec(json!({ "optimizer": { "adamW": null } }))),
        ("give exactly one of dataParallel, diLoCo, fedAvg", spec(json!({ "method": { "fedAvg": { "innerSteps": 1 } } }))),
        ("give exactly one of dataParallel, diLoCo, fedAvg", spec(json!({ "method": { "dataParallel": null } }))),
        ("workers.min must be at most workers.target", spec(json!({ "workers": { "min": 5 } }))),
        ("workers.target must be at most workers.max", spec(json!({ "workers": { "max": 3 } }))),
        ("rounds.quorum.min must be at most workers.target", spec(json!({ "rounds": { "quorum": { "min": 5 } } }))),
        ("divergence.policy Rollback needs checkpoint, to go back to", spec(json!({ "divergence": { "policy": "Rollback" } }))),
        (
            "rounds.joinWindowSeconds must be less than rounds.roundTimeoutSeconds",
            spec(json!({ "rounds": { "joinWindowSeconds": 600 } })),
        ),
    ]
}

/// Changes of [`good_run`] at the edge of what the rules allow.
fn allowed() -> Vec<Value> {
    vec![
        json!({}),
        json!({ "metadata": { "name": "a".repeat(40) } }),
        json!({ "metadata": { "name": "a-9" } }),
        json!({ "spec": { "model": { "architecture": { "llama": { "hiddenSize": 8 } } } } }),
        json!({ "spec": { "divergence": { "policy": "Rollback" }, "checkpoint": { "uri": "kept" } } }),
        json!({ "spec": { "divergence": { "policy": "Suspend", "spikeFactor": 1.01, "windowRounds": 2 } } }),
        json!({ "spec": { "workers": { "min": 4, "max": 4 } } }),
        json!({ "spec": { "rounds": { "quorum": { "min": 4 }, "joinWindowSeconds": 599 } } }),
        json!({ "spec": { "optimizer": { "gradientClip": 2, "schedule": { "warmupSteps": 0 } } } }),
    ]
}

fn good_run() -> Value {
    json!({
        "apiVersion": "atoll.dev/v1alpha1",
        "kind": "TrainingRun",
        "metadata": { "name": "run" },
        "spec": {
            "model": { "architecture": { "llama": {
                "layers": 2, "hiddenSize": 64, "heads": 4, "intermediateSize": 192, "contextLength": 64,
            } } },
            "dataset": { "source": { "uri": "builtin:kjv" }, "tokenizer": { "characters": {} } },
            "optimizer": { "adamW": { "learningRate": 0.003 } },
            "method": { "dataParallel": {} },
            "workers": { "min": 2, "target": 4 },
            "stop": { "steps": 100 },
        },
    })
}

fn changed(change: &Value) -> Value {
    let mut run = good_run();
    merge(&mut run, change);
    run
}

/// Applies a JSON merge patch (RFC 7386).
fn merge(target: &mut Value, change: &Value) {
    let Value::Object(changes) = change else { return target.clone_from(change) };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, change) in changes {
        match (change, target.as_object_mut()) {
            (Value::Null, Some(members)) => drop(members.remove(name)),
            (change, Some(members)) => merge(members.entry(name).or_insert(Value::Null), change),
            (_, None) => unreachable!("made an object above"),
        }
    }
}

/// What the validation of run files says would be right; JSON is YAML.
fn refusals_of_load(run: &Value) -> Vec<String> {
    match load(Path::new("run.yaml"), &run.to_string(), &[]) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.0.into_iter().map(|problem| problem.help).collect(),
    }
}

/// Messages of all rules in a part of the manifest.
fn messages(node: &Yaml<'_>, found: &mut Vec<String>) {
    match node {
        Yaml::Mapping(members) => {
            for (key, value) in members {
                match (key.as_str(), value.as_vec()) {
                    (Some("x-kubernetes-validations"), Some(rules)) => {
                        found.extend(
                            rules.iter().map(|rule| rule["message"].as_str().expect("every rule has a message").to_owned()),
                        );
                    }
                    _ => messages(value, found),
                }
            }
        }
        Yaml::Sequence(items) => items.iter().for_each(|item| messages(item, found)),
        _ => {}
    }
}

#[test]
fn every_rule_refuses_its_case_and_no_other_rule_does() {
    for (message, change) in cases() {
        assert_eq!(refusals_of_load(&changed(&change)), [message], "{change}");
    }
}

#[test]
fn every_rule_of_the_manifest_has_a_case() {
    let mut found = Vec::new();
    messages(&Yaml::load_from_str(TRAINING_RUN_CRD).unwrap()[0], &mut found);
    let rules: BTreeSet<&str> = found.iter().map(String::as_str).collect();
    assert_eq!(rules.len(), found.len(), "two rules have one message");
    assert_eq!(cases().iter().map(|(message, _)| *message).collect::<BTreeSet<_>>(), rules);
}

#[test]
fn what_the_rules_allow_is_accepted() {
    for change in allowed() {
        assert_eq!(refusals_of_load(&changed(&change)), [""; 0], "{change}");
    }
}

#[cfg(feature = "kube")]
#[test]
fn kube_evaluates_every_case_alike() {
    use atoll_crds::spec::TrainingRun;
    use kube::{CustomResourceExt, core::cel::Validator};

    let crd = serde_json::to_value(TrainingRun::crd()).unwrap();
    let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let refusals = |change: &Value| match Validator::new().validate(schema, &changed(change), None) {
        Ok(()) => Vec::new(),
        Err(errors) => errors.into_vec().into_iter().map(|error| error.message).collect(),
    };
    for (message, change) in cases() {
        assert_eq!(refusals(&change), [message], "{change}");
    }
    for change in allowed() {
        assert_eq!(refusals(&change), [""; 0], "{change}");
    }
}
