//! A run on one screen, and runs as a table.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::connection::Run;
use super::text::{columns, grouped, plain, shortened, span, sparkline};
use super::view::{View, phase};
use super::waiting::causes;
use super::workers::Worker;

/// Bars of a sparkline.
const BARS: usize = 40;
/// Characters of a failure in a table.
const WORDS: usize = 90;

/// Seconds from `time` to `now`.
fn since(time: &Time, now: Timestamp) -> i64 {
    now.as_second() - time.0.as_second()
}

/// The runs of one namespace, or of all where the namespace is shown.
pub(super) fn table(runs: &[Run], everywhere: bool, now: Timestamp) -> String {
    let rows: Vec<Vec<String>> = runs.iter().map(|run| row(run, everywhere, now)).collect();
    let mut head = vec!["NAME", "STATE", "WORKERS", "ROUND", "LOSS", "DONE", "LEFT", "AGE", "WHY"];
    if everywhere {
        head.insert(0, "NAMESPACE");
    }
    columns(&head, &rows)
}

fn row(run: &Run, everywhere: bool, now: Timestamp) -> Vec<String> {
    let status = run.status.clone().unwrap_or_default();
    let progress = status.progress.as_ref();
    let workers = if status.workers.summary.is_empty() { "-" } else { &status.workers.summary };
    let left = progress.and_then(|progress| progress.remaining_seconds).filter(|_| phase(run) == "Running");
    let why = causes(run.status.as_ref()).first().map(|cause| match cause.reason.as_str() {
        "" => "NoOperator".to_owned(),
        known => known.to_owned(),
    });
    let dash = || "-".to_owned();
    let mut row = vec![
        run.name_any(),
        phase(run).to_owned(),
        workers.to_owned(),
        progress.map_or_else(dash, |progress| progress.round.to_string()),
        progress.map_or_else(dash, |progress| progress.loss_text.clone()),
        progress.map_or_else(dash, |progress| format!("{}%", progress.percent)),
        left.map_or_else(dash, span),
        run.creation_timestamp().map_or_else(dash, |time| span(since(&time, now))),
        why.unwrap_or_default(),
    ];
    if everywhere {
        row.insert(0, run.namespace().unwrap_or_default());
    }
    row
}

/// One run.
pub(super) fn screen(view: &View, now: Timestamp) -> String {
    let mut lines = vec![head(view, now)];
    let mut line = |label: &str, text: &str| lines.push(format!("  {label:<11} {text}"));
    for (place, cause) in view.causes.iter().enumerate() {
        let label = match (place, view.phase.as_str()) {
            (0, "Failed") => "failed",
            (0, "Running") => "but",
            (0, _) => "waits for",
            _ => "and",
        };
        line(label, &cause.to_string());
    }
    for (label, text) in [
        ("progress", progress(view)),
        ("pace", pace(view)),
        ("loss", loss(view)),
        ("checkpoint", Some(checkpoint(view, now))),
        ("islands", islands(view)),
        ("workers", Some(counts(view))),
        ("result", view.result.as_ref().map(|result| format!("weightsHash {}", result.weights_hash))),
    ] {
        if let Some(text) = text {
            line(label, &text);
        }
    }
    if let Some(result) = &view.result {
        if let Some(loss) = result.held_out_loss {
            line("", &format!("held-out loss {loss:.4}"));
        }
        if !result.numerics_class.is_empty() {
            line("", &format!("numerics class {}", result.numerics_class));
        }
    }
    for unread in &view.unread {
        line("unread", &plain(unread));
    }
    let mut text = lines.join("\n") + "\n";
    if !view.workers.is_empty() {
        let coordinator = view.progress.as_ref().map_or("", |progress| progress.coordinator.as_str());
        text.push('\n');
        text += &workers(&view.workers, coordinator);
    }
    text
}

fn head(view: &View, now: Timestamp) -> String {
    let attempt = view.attempt.filter(|attempt| *attempt > 0).map(|attempt| format!(", attempt {attempt}"));
    let time = match (&view.start_time, &view.completion_time, &view.created) {
        (Some(start), Some(end), _) => format!(", took {}", span(since(start, end.0))),
        (Some(start), None, _) => format!(", started {} ago", span(since(start, now))),
        (None, _, Some(created)) => format!(", made {} ago", span(since(created, now))),
        (None, _, None) => String::new(),
    };
    format!("{} in {}: {}{}{time}", view.name, view.namespace, view.phase, attempt.unwrap_or_default())
}

fn progress(view: &View) -> Option<String> {
    let progress = view.progress.as_ref()?;
    let steps = view.steps.map_or_else(String::new, |steps| format!(" of {} ({} %)", grouped(steps), progress.percent));
    Some(format!(
        "round {}, step {}{steps}, {} tokens",
        grouped(progress.round),
        grouped(progress.step),
        grouped(progress.tokens)
    ))
}

fn pace(view: &View) -> Option<String> {
    let progress = view.progress.as_ref().filter(|_| matches!(view.phase.as_str(), "Running" | "Holding"))?;
    if progress.tokens_per_second <= 0.0 {
        return None;
    }
    let left = progress.remaining_seconds.map_or_else(String::new, |seconds| format!(", {} left", span(seconds)));
    Some(format!("{} tokens per second{left}", grouped(progress.tokens_per_second.round() as i64)))
}

fn loss(view: &View) -> Option<String> {
    let progress = view.progress.as_ref()?;
    let line = sparkline(&view.losses.iter().map(|loss| loss.loss).collect::<Vec<_>>(), BARS);
    let rounds = match (view.losses.first(), view.losses.last()) {
        (Some(first), Some(last)) if !line.is_empty() => format!("  {line}  rounds {} to {}", first.round, last.round),
        _ => String::new(),
    };
    Some(format!("{}{rounds}", progress.loss_text))
}

fn checkpoint(view: &View, now: Timestamp) -> String {
    match &view.last_checkpoint {
        Some(last) => {
            let age = last.time.as_ref().map_or_else(String::new, |time| format!(", {} ago", span(since(time, now))));
            format!("round {}{age}, {}", grouped(last.round), last.place)
        }
        None if view.keeps_checkpoints => "none yet".to_owned(),
        None => "the run keeps none".to_owned(),
    }
}

fn islands(view: &View) -> Option<String> {
    let island = |island: &super::view::Island| {
        let phase = if island.phase.is_empty() { String::new() } else { format!(", {}", island.phase) };
        format!("{}: {} of {} ready{phase}", island.name, island.ready, island.replicas)
    };
    (!view.islands.is_empty()).then(|| view.islands.iter().map(island).collect::<Vec<_>>().join("; "))
}

fn counts(view: &View) -> String {
    let counts = &view.counts;
    if matches!(view.phase.as_str(), "Complete" | "Failed") {
        return format!("{} wanted, {} failed", counts.desired, counts.failed);
    }
    format!(
        "{} wanted, {} ready, {} training, {} finished, {} failed",
        counts.desired, counts.ready, counts.training, counts.finished, counts.failed
    )
}

/// Workers, with a star at the one that coordinates.
pub(super) fn workers(workers: &[Worker], coordinator: &str) -> String {
    let row = |worker: &Worker| {
        let star = if worker.name == coordinator { "*" } else { "" };
        vec![
            format!("{}{star}", worker.name),
            worker.pod.clone().unwrap_or_else(|| "-".into()),
            worker.node.clone().unwrap_or_else(|| "-".into()),
            worker.state.clone(),
            worker.restarts.to_string(),
            worker.words.as_deref().map(|words| shortened(words, WORDS)).unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = workers.iter().map(row).collect();
    columns(&["WORKER", "POD", "NODE", "STATE", "RESTARTS", "LAST WORDS"], &rows)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::losses::Loss;
    use super::super::view::Seen;
    use super::super::workers::tests::{pod, running, trainer};
    use super::*;

    fn now() -> Timestamp {
        "2026-11-28T12:10:00Z".parse().unwrap()
    }

    fn run(name: &str, status: &Value) -> Run {
        serde_json::from_value(json!({
            "apiVersion": "atoll.dev/v1alpha1",
            "kind": "TrainingRun",
            "metadata": { "name": name, "namespace": "research", "creationTimestamp": "2026-11-28T12:00:00Z" },
            "spec": { "workers": { "target": 3 }, "stop": { "steps": 1000 }, "checkpoint": { "uri": "s3://b/p" } },
            "status": status,
        }))
        .unwrap()
    }

    fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Value {
        json!({
            "type": kind, "status": status, "reason": reason, "message": message,
            "lastTransitionTime": "2026-11-28T12:00:05Z",
        })
    }

    fn going() -> Value {
        json!({
            "phase": "Running",
            "attempt": 1,
            "startTime": "2026-11-28T12:00:05Z",
            "conditions": [
                condition("Progressing", "True", "Training", ""),
                condition("Degraded", "True", "WorkersMissing", "2 of 3 workers take part"),
            ],
            "workers": { "desired": 3, "ready": 2, "training": 2, "finished": 0, "failed": 1, "summary": "2/3" },
            "progress": {
                "epoch": 2, "coordinator": "w0", "round": 42, "step": 840, "tokens": 3_440_640, "loss": 1.9423,
                "lossText": "1.9423", "tokensPerSecond": 12_345.6, "percent": 84, "remainingSeconds": 95,
            },
            "lastCheckpoint": { "place": "e1-r40", "round": 40, "time": "2026-11-28T12:09:48Z" },
        })
    }

    fn seen(status: &Value) -> Seen {
        let killed = json!({ "terminated": { "exitCode": 137, "reason": "OOMKilled", "message": "allocating" } });
        let island = json!({
            "metadata": { "name": "kjv-local" },
            "spec": { "run": "kjv", "island": "local", "firstSlot": 0, "replicas": 3, "generation": 1, "templateHash": "" },
            "status": { "ready": 2, "phase": "Running" },
        });
        Seen {
            run: run("kjv", status),
            pods: Ok(vec![
                pod(0, "kjv-local-0-a", 1, &running()),
                pod(1, "kjv-local-1-b", 1, &running()),
                pod(2, "kjv-local-2-c", 1, &trainer("Failed", &killed)),
            ]),
            islands: Ok(vec![serde_json::from_value(island).unwrap()]),
            losses: [(39, 4.0), (40, 3.0), (41, 2.0), (42, 1.0)].map(|(round, loss)| Loss { round, loss }).to_vec(),
        }
    }

    #[test]
    fn a_run_that_trains_fits_on_one_screen() {
        assert_eq!(
            screen(&View::of(&seen(&going())), now()),
            "kjv in research: Running, attempt 1, started 9m55s ago\n  \
               but         Degraded True, WorkersMissing: 2 of 3 workers take part\n  \
               progress    round 42, step 840 of 1,000 (84 %), 3,440,640 tokens\n  \
               pace        12,346 tokens per second, 1m35s left\n  \
               loss        1.9423  \u{2588}\u{2586}\u{2583}\u{2581}  rounds 39 to 42\n  \
               checkpoint  round 40, 12s ago, e1-r40\n  \
               islands     local: 2 of 3 ready, Running\n  \
               workers     3 wanted, 2 ready, 2 training, 0 finished, 1 failed\n\
             \n\
             WORKER   POD             NODE     STATE     RESTARTS   LAST WORDS\n\
             w0*      kjv-local-0-a   node-0   Running   0\n\
             w1       kjv-local-1-b   node-1   Running   0\n\
             w2       kjv-local-2-c   node-2   Failed    0          exit code 137 (OOMKilled): allocating\n"
        );
    }

    #[test]
    fn a_run_that_waits_says_for_what_and_what_may_not_be_read() {
        let status = json!({
            "phase": "Pending",
            "conditions": [condition("Placed", "False", "Refused", "exceeded quota: pods")],
            "workers": { "desired": 3 },
        });
        let seen = Seen {
            run: run("kjv", &status),
            pods: Err("you may not list the pods".into()),
            islands: Ok(Vec::new()),
            losses: Vec::new(),
        };
        assert_eq!(
            screen(&View::of(&seen), now()),
            "kjv in research: Pending, made 10m0s ago\n  \
               waits for   Placed False, Refused: exceeded quota: pods\n  \
               checkpoint  none yet\n  \
               workers     3 wanted, 0 ready, 0 training, 0 finished, 0 failed\n  \
               unread      you may not list the pods\n"
        );
    }

    #[test]
    fn a_run_that_is_over_shows_what_it_ended_with() {
        let mut status = going();
        status["phase"] = json!("Complete");
        status["conditions"] = json!([condition("Complete", "True", "Finished", "")]);
        status["completionTime"] = json!("2026-11-28T12:03:05Z");
        status["result"] = json!({ "weightsHash": "ab12", "heldOutLoss": 1.98761, "numericsClass": "x86-64-v3, 1 thread" });
        let seen = Seen { pods: Ok(Vec::new()), islands: Ok(Vec::new()), losses: Vec::new(), ..seen(&status) };
        assert_eq!(
            screen(&View::of(&seen), now()),
            "kjv in research: Complete, attempt 1, took 3m0s\n  \
               progress    round 42, step 840 of 1,000 (84 %), 3,440,640 tokens\n  \
               loss        1.9423\n  \
               checkpoint  round 40, 12s ago, e1-r40\n  \
               workers     3 wanted, 1 failed\n  \
               result      weightsHash ab12\n              \
                           held-out loss 1.9876\n              \
                           numerics class x86-64-v3, 1 thread\n"
        );
    }

    #[test]
    fn runs_are_a_table_with_why_each_waits() {
        let runs = [run("kjv", &going()), run("new", &Value::Null)];
        assert_eq!(
            table(&runs, true, now()),
            "NAMESPACE   NAME   STATE     WORKERS   ROUND   LOSS     DONE   LEFT    AGE     WHY\n\
             research    kjv    Running   2/3       42      1.9423   84%    1m35s   10m0s   WorkersMissing\n\
             research    new    Pending   -         -       -        -      -       10m0s   NoOperator\n"
        );
    }
}
