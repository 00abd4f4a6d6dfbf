//! The losses of the last rounds, as a trainer's log has them.

use std::collections::BTreeMap;

use atoll_sdk::events::Event;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::LogParams;
use serde::Serialize;

use super::connection::Connection;
use super::workers::{by_slot, has_begun};

/// Lines of the log that are read; a round has two or three.
const LINES: i64 = 400;

/// The mean training loss of a committed round, in nats per token.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Loss {
    pub(super) round: u64,
    pub(super) loss: f64,
}

/// Losses of the last rounds by the log of one trainer; none where no log can be read.
pub(super) async fn recent(connection: &Connection, pods: &[Pod]) -> Vec<Loss> {
    let slots = by_slot(pods);
    let Some(pod) = slots.values().filter_map(|pods| pods.last()).find(|pod| has_begun(pod, "trainer")) else {
        return Vec::new();
    };
    let parameters = LogParams { container: Some("trainer".into()), tail_lines: Some(LINES), ..LogParams::default() };
    let log = connection.pod_api().logs(&pod.name_any(), &parameters).await;
    log.map(|log| of_log(&log)).unwrap_or_default()
}

/// Losses by round; of a round that was done twice, the last.
fn of_log(log: &str) -> Vec<Loss> {
    let mut losses = BTreeMap::new();
    for line in log.lines() {
        let Ok(event) = serde_json::from_str::<Event>(line) else { continue };
        let loss = event.more.get("loss").and_then(serde_json::Value::as_f64).filter(|loss| loss.is_finite());
        if let ("SyncEnd", Some(round), Some(loss)) = (event.event.as_str(), event.round, loss) {
            losses.insert(round, loss);
        }
    }
    losses.into_iter().map(|(round, loss)| Loss { round, loss }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_losses_of_committed_rounds_are_found_among_other_lines() {
        let log = "not JSON\n\
            {\"time\":\"t\",\"worker\":\"w0\",\"event\":\"ComputeEnd\",\"round\":1,\"loss\":9.0}\n\
            {\"time\":\"t\",\"worker\":\"w0\",\"event\":\"SyncEnd\",\"round\":1,\"loss\":3.5}\n\
            {\"time\":\"t\",\"worker\":\"w0\",\"event\":\"SyncEnd\",\"round\":2,\"loss\":3.0}\n\
            {\"time\":\"t\",\"worker\":\"w0\",\"event\":\"SyncEnd\",\"round\":2,\"loss\":2.5}\n\
            {\"time\":\"t\",\"worker\":\"w0\",\"event\":\"SyncEnd\",\"round\":3,\"loss\":null}\n";
        assert_eq!(of_log(log), [Loss { round: 1, loss: 3.5 }, Loss { round: 2, loss: 2.5 }]);
    }
}
