//! Bad run files: every problem at once, each with its place, what is wrong, and what would be right.

use std::path::Path;

use atoll_crds::{RunFile, load};
use proptest::prelude::*;

const GOOD: &str = r#"apiVersion: atoll.dev/v1alpha1
kind: TrainingRun
metadata: {name: kjv, namespace: research}
spec:
  model:
    architecture:
      llama: {layers: 2, hiddenSize: 64, heads: 4, intermediateSize: 192, contextLength: 64}
  dataset: {source: {uri: "builtin:kjv"}, tokenizer: {characters: {}}}
  optimizer: {adamW: {learningRate: 3.0e-3}}
  method:
    diLoCo: {innerSteps: 20}
  workers:
    min: 2
    target: 4
  stop: {steps: 1000}
"#;

/// A text of the good file, what stands there instead, and the problem that this is.
const MISTAKES: &[(&str, &str, &str)] = &[
    (
        "  stop: {steps: 1000}",
        "  stop: {steps: 0}",
        "run.yaml:15:17: spec.stop.steps: found 0; write an integer from 1 to 1000000000",
    ),
    ("    min: 2", "    min: 5", "run.yaml:13:10: spec.workers.min: found 5; workers.min must be at most workers.target"),
    ("    min: 2", "    min: two", "run.yaml:13:10: spec.workers.min: found text \"two\"; write an integer from 1 to 64"),
    ("    min: 2", "    min: 2.5", "run.yaml:13:10: spec.workers.min: found 2.5; write an integer from 1 to 64"),
    ("    min: 2", "    min: 02", "run.yaml:13:10: spec.workers.min: found text \"02\"; write an integer from 1 to 64"),
    ("    min: 2", "    min: [2]", "run.yaml:13:5: spec.workers.min: found a list of 1; write an integer from 1 to 64"),
    ("    min: 2", "    mim: 2\n    min: 2", "run.yaml:13:5: spec.workers.mim: unknown field; did you mean min?"),
    (
        "    min: 2",
        "    replicas: 2\n    min: 2",
        "run.yaml:13:5: spec.workers.replicas: unknown field; known fields are batchSize, max, min, ranks, resources, target",
    ),
    (
        "    min: 2",
        "    \"a\\nb\": 1\n    min: 2",
        "run.yaml:13:5: spec.workers.a\\nb: unknown field; known fields are batchSize, max, min, ranks, resources, target",
    ),
    ("    min: 2", "    min: 2\n    min: 3", "run.yaml:14:5: found \"min\" a second time; give each field once"),
    (
        "    min: 2\n",
        "",
        "run.yaml:12:3: spec.workers.min: missing; write an integer from 1 to 64 \
         (Workers that must have joined before the first round begins)",
    ),
    (
        "    diLoCo: {innerSteps: 20}",
        "    diLoCo: {innerSteps: 20}\n    dataParallel: {}",
        "run.yaml:10:3: spec.method: found dataParallel and diLoCo; give exactly one of dataParallel, diLoCo, fedAvg",
    ),
    (
        "  method:\n    diLoCo: {innerSteps: 20}",
        "  method: {}",
        "run.yaml:10:3: spec.method: found none of dataParallel, diLoCo, fedAvg; \
         give exactly one of dataParallel, diLoCo, fedAvg",
    ),
    (
        "    diLoCo: {innerSteps: 20}",
        "    dataParallel:",
        "run.yaml:10:3: spec.method: found dataParallel without a value; give exactly one of dataParallel, diLoCo, fedAvg",
    ),
    (
        "{learningRate: 3.0e-3}",
        "{learningRate: 0}",
        "run.yaml:9:37: spec.optimizer.adamW.learningRate: found 0; write a number greater than 0",
    ),
    (
        "{learningRate: 3.0e-3}",
        "{learningRate: .nan}",
        "run.yaml:9:37: spec.optimizer.adamW.learningRate: found NaN; write a number greater than 0",
    ),
    (
        "  stop: {steps: 1000}",
        "  stop: {steps: 1000}\n  rounds: {stragglerPolicy: drop}",
        "run.yaml:16:29: spec.rounds.stragglerPolicy: found text \"drop\"; write one of Wait, Drop",
    ),
    (
        "  stop: {steps: 1000}",
        "  stop: {steps: 1000}\n  rounds: {roundTimeoutSeconds: 20}",
        "run.yaml:16:3: spec.rounds.joinWindowSeconds: found 30 by default; \
         rounds.joinWindowSeconds must be less than rounds.roundTimeoutSeconds",
    ),
    (
        "  stop: {steps: 1000}",
        "  stop: {steps: 1000}\n  runtimeRef: {kind: TrainingRuntime, name: A}",
        "run.yaml:16:45: spec.runtimeRef.name: found text \"A\"; \
         write text of at most 253 characters like ^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$",
    ),
    (
        "hiddenSize: 64",
        "hiddenSize: 60",
        "run.yaml:7:38: spec.model.architecture.llama.hiddenSize: found 60; \
         hiddenSize must be a multiple of 2 * heads, because rotary embedding needs an even head size",
    ),
    ("atoll.dev/v1alpha1", "atoll.dev/v1", "run.yaml:1:13: apiVersion: found text \"atoll.dev/v1\"; write atoll.dev/v1alpha1"),
    ("kind: TrainingRun", "kind: Job", "run.yaml:2:7: kind: found text \"Job\"; write TrainingRun"),
    ("{name: kjv, namespace: research}", "{}", "run.yaml:3:1: metadata.name: missing; write text"),
    (
        "name: kjv,",
        "name: 1kjv,",
        "run.yaml:3:18: metadata.name: found \"1kjv\"; \
         the name must begin with a letter, end with a letter or digit, and have only a-z, 0-9 and - in it",
    ),
    (
        "  stop: {steps: 1000}",
        "  stop: {steps: 1000}\n---\nkind: Job",
        "run.yaml:16:1: found a second document; a run file has one TrainingRun",
    ),
    (
        "  stop: {steps: 1000}",
        "  stop: {steps: 1000}\n  placement: {members: {selector: {matchLabels: {tier: \"a b\"}}}}",
        "run.yaml:16:56: spec.placement.members.selector.matchLabels.tier: found text \"a b\"; \
         write text of at most 63 characters like ^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$",
    ),
];

fn load_text(text: &str, overrides: &[(&str, &str)]) -> Result<RunFile, String> {
    let overrides: Vec<(String, String)> =
        overrides.iter().map(|(path, value)| ((*path).to_owned(), (*value).to_owned())).collect();
    load(Path::new("run.yaml"), text, &overrides).map_err(|problems| problems.to_string())
}

/// The problems of the good file with one text replaced.
fn problems_with(good: &str, bad: &str) -> String {
    assert_eq!(GOOD.matches(good).count(), 1, "{good:?} is not in the file once");
    load_text(&GOOD.replace(good, bad), &[]).expect_err("the bad file is refused")
}

#[test]
fn each_mistake_has_its_line() {
    for (good, bad, line) in MISTAKES {
        assert_eq!(problems_with(good, bad), *line);
    }
}

#[test]
fn a_password_in_an_address_is_not_repeated() {
    let endpoint = "http://u:SuperSecretKey123@h:1";
    let bad = format!("  stop: {{steps: 1000}}\n  checkpoint: {{uri: \"s3://b/p\", endpoint: \"{endpoint}\"}}");
    let in_file = problems_with("  stop: {steps: 1000}", &bad);
    let override_ = [("checkpoint", "{uri: s3://b/p}"), ("checkpoint.endpoint", endpoint)];
    for said in [in_file, load_text(GOOD, &override_).unwrap_err()] {
        assert!(said.contains("spec.checkpoint.endpoint: found text \"http://***@h:1\"; ") && !said.contains("Secret"), "{said}");
    }
}

#[test]
fn text_that_is_not_yaml_has_its_line() {
    let problem = problems_with("    min: 2", "    min: [2");
    assert!(problem.starts_with("run.yaml:14:"), "{problem}");
    assert!(problem.contains("found text that is not YAML"), "{problem}");
}

#[test]
fn a_text_without_a_run_is_refused() {
    assert_eq!(load_text("", &[]).unwrap_err(), "run.yaml:1:1: found no document; give one TrainingRun");
    assert_eq!(
        load_text("- a", &[]).unwrap_err(),
        "run.yaml:1:1: found a list of 1; write a map with apiVersion, kind, metadata, spec"
    );
}

#[test]
fn all_problems_come_at_once_in_the_order_of_the_file() {
    let text = GOOD.replace("layers: 2", "layers: 0").replace("target: 4", "target: 1").replace("steps: 1000", "step: 1000");
    assert_eq!(
        load_text(&text, &[("seed", "-1")]).unwrap_err().lines().collect::<Vec<_>>(),
        [
            "run.yaml:7:23: spec.model.architecture.llama.layers: found 0; write an integer from 1 to 256",
            "run.yaml:13:10: spec.workers.min: found 2; workers.min must be at most workers.target",
            "run.yaml:15:3: spec.stop.steps: missing; write an integer from 1 to 1000000000 (Inner optimizer steps of each worker)",
            "run.yaml:15:10: spec.stop.step: unknown field; did you mean steps?",
            "--set seed: spec.seed: found -1; write an integer of at least 0",
        ]
    );
}

#[test]
fn overrides_change_fields_and_make_those_above_them() {
    let run = load_text(
        GOOD,
        &[
            ("spec.workers.min", "3"),
            ("workers.target", "8"),
            ("rounds.quorum.min", "2"),
            ("method", "{fedAvg: {innerSteps: 5}}"),
            ("workers.min", "1"),
        ],
    )
    .unwrap();
    assert_eq!((run.spec.workers.min, run.spec.workers.target, run.spec.rounds.quorum.min), (1, 8, 2));
    assert!(matches!(run.spec.method, atoll_crds::spec::Method::FedAvg(ref method) if method.inner_steps == 5));
}

#[test]
fn an_override_with_null_takes_a_field_away() {
    let run = load_text(GOOD, &[("method.diLoCo", "null"), ("method.dataParallel", "{}")]).unwrap();
    assert_eq!(run.spec.method, atoll_crds::spec::Method::DataParallel {});
}

#[test]
fn a_mistake_in_an_override_has_the_override_as_its_place() {
    for (path, value, line) in [
        ("workers.min", "5", "--set workers.min: spec.workers.min: found 5; workers.min must be at most workers.target"),
        ("worker.min", "5", "--set worker.min: spec.worker: unknown field; did you mean workers?"),
        ("spec.seed.x", "5", "--set spec.seed.x: spec.seed: found a map; write an integer of at least 0"),
        ("stop.steps.x", "5", "--set stop.steps.x: spec.stop.steps: found a value without fields; set the whole field instead"),
        ("workers.min", "[", "--set workers.min: found text that is not YAML"),
        ("workers.min", "", "--set workers.min: found no value; write path=value, and null to take a field away"),
        ("workers..min", "5", "--set workers..min: found a path that names no field"),
        ("rounds", "{quorum: 3}", "--set rounds: spec.rounds.quorum: found 3; write a map with min"),
    ] {
        let problem = load_text(GOOD, &[(path, value)]).unwrap_err();
        assert!(problem.starts_with(line), "{problem}");
    }
}

#[test]
fn defaults_are_those_of_the_schema() {
    let run = load_text(GOOD, &[]).unwrap();
    assert_eq!((run.name.as_str(), run.namespace.as_deref()), ("kjv", Some("research")));
    let spec = run.spec;
    assert_eq!((spec.seed, spec.workers.batch_size, spec.workers.ranks, spec.workers.max), (0, 4, 1, None));
    assert_eq!((spec.optimizer.gradient_clip, spec.optimizer.schedule.warmup_steps), (1.0, 50));
    assert_eq!((spec.rounds.round_timeout_seconds, spec.rounds.liveness_seconds, spec.rounds.quorum.min), (600, None, 1));
    assert_eq!((spec.dataset.held_out_fraction, spec.dataset.source.text_field.as_str()), (0.05, "text"));
    assert_eq!(spec.evaluation.windows, 256);
    let atoll_crds::spec::Algorithm::AdamW(adam) = spec.optimizer.algorithm else { panic!("not AdamW") };
    assert_eq!((adam.learning_rate, adam.beta1, adam.beta2, adam.epsilon, adam.weight_decay), (3e-3, 0.9, 0.95, 1e-8, 0.1));
}

#[test]
fn a_whole_number_is_an_integer_however_it_is_written() {
    assert_eq!(load_text(GOOD, &[("stop.steps", "1e3")]).unwrap().spec.stop.steps, 1000);
}

#[test]
fn fields_of_a_cluster_are_accepted_and_listed() {
    let run = load_text(
        GOOD,
        &[
            ("runtimeRef", "{kind: ClusterTrainingRuntime, name: candle-cpu}"),
            ("placement", "{members: {selector: {matchLabels: {tier: gpu}}}, volunteers: {allow: true, maxFraction: 0.5}}"),
        ],
    )
    .unwrap();
    assert_eq!(run.unused, ["spec.runtimeRef", "spec.placement"]);
}

#[test]
fn parts_of_fields_that_only_a_cluster_reads_are_listed() {
    let run = load_text(
        GOOD,
        &[
            ("workers.resources", "{requests: {cpu: 2, memory: 1Gi}}"),
            ("dataset.source.secretRef.name", "s3"),
            ("suspend", "true"),
        ],
    )
    .unwrap();
    assert_eq!(run.unused, ["spec.suspend", "spec.workers.resources", "spec.dataset.source.secretRef"]);
    assert!(run.spec.suspend);
}

#[test]
fn a_status_is_ignored_as_kubernetes_does() {
    let with_status = format!("{GOOD}status: {{phase: Running, made: {{up: [null, 1]}}}}\n");
    let run = load_text(&with_status, &[]).unwrap();
    assert_eq!((run.spec, run.unused), (load_text(GOOD, &[]).unwrap().spec, Vec::new()));
}

#[test]
fn what_only_a_cluster_fetches_is_named_with_its_place() {
    assert!(load_text(GOOD, &[]).unwrap().needs_cluster().is_empty());
    let far = GOOD.replace("builtin:kjv", "s3://b/k");
    let run = load_text(&far, &[("dataset.tokenizer", "{file: {uri: pvc://c/t.json}}")]).unwrap();
    let said: Vec<String> = run.needs_cluster().iter().map(ToString::to_string).collect();
    let advice = "which only a cluster fetches; give a path or file: URI here, or apply the run to a cluster";
    assert_eq!(
        said,
        [
            format!("run.yaml:8:27: spec.dataset.source.uri: found s3://b/k, {advice}"),
            format!("--set dataset.tokenizer: spec.dataset.tokenizer.file.uri: found pvc://c/t.json, {advice}"),
        ]
    );
    let near = [("dataset.source.uri", "file:///texts"), ("dataset.tokenizer", "{file: {uri: a/t.json}}")];
    assert!(load_text(GOOD, &near).unwrap().needs_cluster().is_empty());
}

#[test]
fn a_problem_found_outside_the_file_gets_the_place_of_its_field() {
    let run = load_text(GOOD, &[]).unwrap();
    let problem = |path: &str| run.problem(path, "found no such file", "give a text file").to_string();
    assert_eq!(
        problem("spec.dataset.source.uri"),
        "run.yaml:8:27: spec.dataset.source.uri: found no such file; give a text file"
    );
    assert!(problem("spec.workers.ranks").starts_with("run.yaml:12:3: spec.workers.ranks: "));
    assert!(problem("spec.evaluation.windows").starts_with("run.yaml:4:1: spec.evaluation.windows: "));
}

proptest! {
    #[test]
    fn no_text_makes_the_check_panic(text in any::<String>(), path in "[a-z.]{0,20}", value in any::<String>()) {
        let _ = load_text(&text, &[]);
        let _ = load_text(GOOD, &[(&path, &value)]);
    }

    #[test]
    fn no_damaged_run_makes_the_check_panic(at in 0usize..GOOD.len(), length in 0usize..40, instead in "[-{}\\[\\]:,&*!?|>'\"#%@ \n\ta-z0-9.]{0,12}") {
        let end = (at + length).min(GOOD.len());
        let _ = load_text(&format!("{}{instead}{}", &GOOD[..at], &GOOD[end..]), &[]);
    }

    #[test]
    fn no_yaml_makes_the_check_panic(text in "[-{}\\[\\]:,&*!?|>'\"#%@ \n\ta-c0-9.~<]{0,200}") {
        let _ = load_text(&text, &[]);
    }
}
