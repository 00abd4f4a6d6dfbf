//! What the workers of a run use: processor and memory by the cluster's metrics, bytes by the sidecars' own.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde::Serialize;
use serde_json::Value;

use super::connection::Connection;
use super::failures::deepest;
use super::text::plain;
use super::workers::{by_slot, has_begun};

/// Port of a sidecar's metrics.
const METRICS: u16 = 7472;
/// Longest wait for a sidecar's metrics.
const PATIENCE: Duration = Duration::from_secs(5);

/// What one worker uses.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Used {
    pub(super) worker: String,
    pub(super) pod: String,
    /// By container.
    pub(super) containers: BTreeMap<String, Container>,
    pub(super) traffic: Option<Traffic>,
}

/// What one container uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Container {
    /// Thousandths of a processor.
    pub(super) millicores: f64,
    /// Bytes of memory.
    pub(super) memory: f64,
}

/// What a sidecar counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Traffic {
    /// Newest committed round that it knows.
    pub(super) round: f64,
    /// Rounds committed with it since its start.
    pub(super) rounds: f64,
    /// Bytes as links carry them, since its start.
    pub(super) sent: f64,
    /// The same in the other direction.
    pub(super) received: f64,
}

impl Traffic {
    /// Bytes sent and received in a round; nothing before the first.
    pub(super) fn per_round(&self) -> Option<(f64, f64)> {
        (self.rounds > 0.0).then(|| (self.sent / self.rounds, self.received / self.rounds))
    }
}

/// What the workers of a run use, and what could not be read and why.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Usage {
    pub(super) workers: Vec<Used>,
    pub(super) unread: Vec<String>,
}

/// Asks the cluster's metrics and each sidecar.
pub(super) async fn usage(connection: &Connection, run: &str, pods: &[Pod]) -> Usage {
    let present: Vec<(u32, &Pod)> = by_slot(pods)
        .into_iter()
        .filter_map(|(slot, pods)| Some((slot, *pods.last()?)))
        .filter(|(_, pod)| pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running")))
        .collect();
    if present.is_empty() {
        return Usage::default();
    }
    let selected = format!("pods?{}", Connection::selector(run));
    let measured = connection.text("/apis/metrics.k8s.io/v1beta1", &selected);
    let asked = futures::future::join_all(present.iter().map(|(_, pod)| traffic(connection, pod)));
    let (measured, traffic) = tokio::join!(measured, asked);
    let mut usage = Usage::default();
    let containers = match measured {
        Ok(text) => measurements(&text),
        Err(error) => {
            usage.unread.push(format!("no processor and memory: {}", no_metrics(&error)));
            BTreeMap::new()
        }
    };
    for ((slot, pod), traffic) in present.into_iter().zip(traffic) {
        let (worker, pod) = (format!("w{slot}"), pod.name_any());
        let traffic = traffic.map_err(|why| usage.unread.push(format!("no bytes of {worker}: {why}"))).ok();
        let containers = containers.get(&pod).cloned().unwrap_or_default();
        usage.workers.push(Used { worker, pod, containers, traffic });
    }
    usage
}

fn no_metrics(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if matches!(status.code, 404 | 503) => {
            "this cluster serves no metrics.k8s.io; metrics-server does".to_owned()
        }
        kube::Error::Api(status) => plain(&status.message),
        other => deepest(other),
    }
}

async fn traffic(connection: &Connection, pod: &Pod) -> Result<Traffic, String> {
    if !has_begun(pod, "sidecar") {
        return Err("its sidecar has not started".to_owned());
    }
    let path = format!("pods/{}:{METRICS}/proxy/metrics", pod.name_any());
    let policies = "network policies may keep the API server from pods";
    match tokio::time::timeout(PATIENCE, connection.text("/api/v1", &path)).await {
        Ok(Ok(page)) => Ok(counted(&page)),
        Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
            Err(format!("you may not reach pods through the API server: {}", plain(&status.message)))
        }
        Ok(Err(kube::Error::Api(status))) => Err(format!("{}; {policies}", plain(&status.message))),
        Ok(Err(error)) => Err(deepest(&error)),
        Err(_) => Err(format!("no answer in {} seconds; {policies}", PATIENCE.as_secs())),
    }
}

/// Containers of each pod, from an answer of metrics.k8s.io.
fn measurements(text: &str) -> BTreeMap<String, BTreeMap<String, Container>> {
    let answer: Value = serde_json::from_str(text).unwrap_or_default();
    let container = |container: &Value| {
        let figure = |name: &str| container["usage"][name].as_str().and_then(quantity).unwrap_or(0.0);
        let used = Container { millicores: figure("cpu") * 1000.0, memory: figure("memory") };
        Some((container["name"].as_str()?.to_owned(), used))
    };
    let pod = |pod: &Value| {
        let containers = pod["containers"].as_array()?.iter().filter_map(container).collect();
        Some((pod["metadata"]["name"].as_str()?.to_owned(), containers))
    };
    answer["items"].as_array().into_iter().flatten().filter_map(pod).collect()
}

/// A quantity of Kubernetes, such as 250m, 1500000n or 64Mi.
fn quantity(text: &str) -> Option<f64> {
    let units = [
        ("Ki", 1024.0),
        ("Mi", 1024.0 * 1024.0),
        ("Gi", 1024.0 * 1024.0 * 1024.0),
        ("n", 1e-9),
        ("u", 1e-6),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
    ];
    let with_unit = units.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)));
    let (number, factor) = with_unit.unwrap_or((text, 1.0));
    number.parse::<f64>().ok().map(|number| number * factor)
}

/// Figures of a page in Prometheus' text format.
fn counted(page: &str) -> Traffic {
    let mut traffic = Traffic::default();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, value)) = line.rsplit_once(' ') else { continue };
        let Ok(value) = value.parse::<f64>() else { continue };
        match name {
            "atoll_round" => traffic.round = value,
            "atoll_rounds_committed_total" => traffic.rounds = value,
            "atoll_wire_bytes_total{direction=\"sent\"}" => traffic.sent = value,
            "atoll_wire_bytes_total{direction=\"received\"}" => traffic.received = value,
            _ => {}
        }
    }
    traffic
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn quantities_are_read_in_every_unit() {
        let read = ["250m", "1500000n", "64Mi", "2", "1024Ki", "x"].map(quantity);
        assert_eq!(read[2..], [Some(67_108_864.0), Some(2.0), Some(1_048_576.0), None]);
        assert!((read[0].unwrap() - 0.25).abs() < 1e-12 && (read[1].unwrap() - 0.0015).abs() < 1e-12);
    }

    #[test]
    fn a_page_of_a_sidecar_gives_bytes_per_round() {
        let page = "# HELP atoll_round The newest\natoll_round 8\natoll_rounds_committed_total 4\n\
            atoll_wire_bytes_total{direction=\"sent\"} 4096\natoll_wire_bytes_total{direction=\"received\"} 8192\n\
            atoll_lane_bytes_total{direction=\"sent\",island=\"local\",peer=\"w0\"} 1\n";
        let traffic = counted(page);
        assert_eq!((traffic.round, traffic.per_round()), (8.0, Some((1024.0, 2048.0))));
        assert_eq!(counted("").per_round(), None);
    }

    #[test]
    fn an_answer_of_the_metrics_server_is_read_by_pod_and_container() {
        let answer = json!({ "items": [{ "metadata": { "name": "p" }, "containers": [
            { "name": "trainer", "usage": { "cpu": "1500m", "memory": "2Ki" } },
        ] }] });
        let measured = measurements(&answer.to_string());
        assert_eq!(measured["p"]["trainer"], Container { millicores: 1500.0, memory: 2048.0 });
        assert!(measurements("<html>").is_empty());
    }
}
