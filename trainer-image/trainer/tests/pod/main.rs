//! The processes of pods, as a kubelet starts and ends them, with a hub in the operator's place.
#![allow(clippy::unwrap_used)]

mod hub;
mod pods;

use std::process::Command;

use atoll_proto::v1::RunSettings;
use hub::Hub;
use pods::{Ground, Pod, until};
use serde_json::Value;

/// All train to the end: the hash of the weights that all have.
async fn trained(pods: &mut [Pod]) -> Value {
    let mut outcomes = Vec::new();
    for pod in pods {
        assert_eq!(pod.trained().await, Some(0), "{}", pod.outcome());
        outcomes.push(pod.outcome());
    }
    let hash = outcomes[0]["weightsHash"].clone();
    assert!(hash.as_str().is_some_and(|hash| hash.len() == 64), "{hash}");
    assert!(outcomes.iter().all(|outcome| outcome["weightsHash"] == hash), "{outcomes:?}");
    let measured = outcomes.iter().filter(|outcome| outcome["heldOutLoss"].is_f64()).count();
    assert_eq!(measured, 1, "one measures the model: {outcomes:?}");
    hash
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_pods_train_to_the_end_and_the_last_checkpoint_is_there_though_their_trainers_are_gone() {
    let ground = Ground::new(11, 2, 40);
    let (hub, place) = Hub::serve(1, ground.settings()).await;
    let mut pods = ground.pods(1, &place);
    trained(&mut pods).await;
    for pod in &mut pods {
        assert_eq!(pod.stop_sidecar().await, Some(0));
    }
    let known = hub.known();
    let kept = known.kept.last().expect("the last checkpoint was told");
    assert_eq!((kept.round, kept.step, kept.digest.len()), (20, 40, 64));
    let progress = known.progress.clone().unwrap();
    assert_eq!((progress.round, progress.step, progress.slots), (20, 40, vec![0, 1]));
    assert!(progress.loss > 0.0 && progress.tokens == kept.tokens && kept.bytes > 0);
    let joined = |worker: &str| known.occurrences.contains(&("Joined".to_owned(), worker.to_owned()));
    assert!(joined("w0") && joined("w1"), "{:?}", known.occurrences);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_that_is_killed_alone_is_started_again_and_its_trainer_goes_on() {
    let ground = Ground::new(12, 2, 400);
    let (hub, place) = Hub::serve(1, ground.settings()).await;
    let mut pods = ground.pods(1, &place);
    until("some rounds", || hub.round() > 0).await;
    pods[1].restart_sidecar();
    trained(&mut pods).await;
    let known = hub.known();
    assert_eq!((known.starts["w0"], known.starts["w1"]), (1, 2));
    assert!(known.renewals > 0, "identities are renewed while they train");
    assert_eq!(known.beginning.as_ref().unwrap().uri, "", "the run began anew");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_suspended_after_a_checkpoint_goes_on_and_ends_with_the_same_weights() {
    let whole = Ground::new(13, 2, 600);
    let (_hub, place) = Hub::serve(1, whole.settings()).await;
    let undisturbed = trained(&mut whole.pods(1, &place)).await;

    let ground = Ground::new(14, 2, 600);
    let (hub, place) = Hub::serve(1, ground.settings()).await;
    let mut pods = ground.pods(1, &place);
    until("some rounds", || hub.round() > 0).await;
    let wish = hub.round() + 1;
    hub.known().wish = Some(wish);
    until("the checkpoint that was wished for", || !hub.known().kept.is_empty()).await;
    hub.known().ends = true;
    for pod in &mut pods {
        assert_eq!(pod.delete().await, (Some(143), Some(0)));
    }
    let kept = hub.known().kept[0].clone();
    assert!(kept.round >= wish && kept.round < 300, "{kept:?}");

    let (hub, place) = Hub::serve(2, ground.settings()).await;
    assert_eq!(trained(&mut ground.pods(2, &place)).await, undisturbed);
    let beginning = hub.known().beginning.clone().unwrap();
    assert_eq!((beginning.place, beginning.digest, beginning.lineage), (kept.place, kept.digest, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_cannot_be_used_is_told_to_the_hub() {
    let ground = Ground::new(15, 1, 2);
    let mut settings: RunSettings = ground.settings();
    settings.checkpoints.as_mut().unwrap().uri = "ftp://nowhere/x".into();
    let (hub, place) = Hub::serve(1, settings).await;
    let mut pods = ground.pods(1, &place);
    until("why", || hub.known().failure.contains("ftp")).await;
    assert_eq!(pods[0].delete().await, (Some(143), Some(0)), "they wait, and end as they are told");
}

#[test]
fn what_is_fetched_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("text.txt"), "abc").unwrap();
    let fetch = |digest: &str| {
        let uri = folder.path().join("text.txt");
        let list = serde_json::json!([{"uri": uri, "into": folder.path().join("cache"), "digest": digest}]);
        let mut command = Command::new(env!("CARGO_BIN_EXE_atoll-trainer"));
        let output = command.arg("fetch").env("ATOLL_FETCH", list.to_string()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let right = "blake3:6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85";
    assert_eq!(fetch(right).0, Some(0));
    let wrong = format!("blake3:{}", "0".repeat(64));
    let (code, said) = fetch(&wrong);
    assert_eq!(code, Some(2));
    assert!(said.lines().last().unwrap().contains(&format!("its digest is {right}, not {wrong}")), "{said}");
}
