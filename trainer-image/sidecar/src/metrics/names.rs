//! The names of all metrics, with what they mean: the one place for both, and for the table in the documentation.

/// What a metric is to Prometheus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// One metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Metric {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) labels: &'static [&'static str],
    pub(super) help: &'static str,
}

/// Declares the metrics, and the list of all.
macro_rules! metrics {
    ($($constant:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal;)+) => {
        $(pub(super) const $constant: Metric = Metric { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };)+

        /// All of them, in the order of the documentation.
        #[cfg(test)]
        pub(super) const ALL: &[Metric] = &[$($constant),+];
    };
}

metrics! {
    SIDECAR: Gauge "atoll_sidecar_info" ["run", "worker", "version"] "Always 1: whose sidecar this is, and its version";
    LANE_BYTES: Counter "atoll_lane_bytes_total" ["peer", "island", "direction"]
        "Bytes exchanged with each peer, above TLS; direction is sent or received";
    WIRE_BYTES: Counter "atoll_wire_bytes_total" ["direction"] "Bytes of all connections as links carry them, TLS included";
    PAYLOAD_BYTES: Counter "atoll_payload_bytes_total" [] "Bytes of the results of committed operations";
    CONTROL_MESSAGES: Counter "atoll_control_messages_total" [] "Messages to and from the coordinator, heartbeats apart";
    CONNECTIONS_REFUSED: Counter "atoll_connections_refused_total" []
        "Connections that were turned away before they could ask for anything";
    PHASE_SECONDS: Histogram "atoll_phase_seconds" ["phase"]
        "Time of an attempt by phase: vote (from Enter to Begin), reduce_scatter (until the own shard is reduced), all_gather (until the whole result is there), commit (from Prepared to Commit)";
    OPERATION_SECONDS: Histogram "atoll_operation_seconds" ["outcome"]
        "Time of an operation from the trainer's call to its answer, all attempts; outcome is committed, aborted or in_doubt";
    IN_FLIGHT: Gauge "atoll_operations_in_flight" [] "Operations that the trainer waits for";
    RETRIES: Counter "atoll_retries_total" [] "Attempts at an operation after its first";
    ABORTS: Counter "atoll_aborts_total" ["reason"] "Attempts that ended without a result, as this peer was told";
    ROUNDS_COMMITTED: Counter "atoll_rounds_committed_total" [] "Rounds that were committed with this worker since its sidecar's start";
    ROUND: Gauge "atoll_round" [] "The newest committed round that this sidecar knows";
    EPOCH: Gauge "atoll_epoch" [] "Version of the membership";
    TERM: Gauge "atoll_term" [] "Term of the coordinator";
    WORLD_SIZE: Gauge "atoll_world_size" [] "Members of the epoch";
    MEMBER: Gauge "atoll_member" [] "1 while this sidecar is a member of the epoch";
    COORDINATOR: Gauge "atoll_coordinator" [] "1 while this sidecar has the coordinator's role";
    EVICTIONS: Counter "atoll_evictions_total" ["reason"] "Members that this sidecar evicted as coordinator";
    STRAGGLER: Counter "atoll_straggler_total" ["peer", "island", "phase"]
        "Times that a peer was the last: to enter (vote, as the coordinator saw it), with its copies (reduce_scatter), with its shard (all_gather)";
    STRAGGLER_SECONDS: Counter "atoll_straggler_seconds_total" ["peer", "island", "phase"]
        "Time for which that peer alone was waited for: from the one before the last to the last";
    QUANTISATION_ERROR: Histogram "atoll_quantisation_relative_error" ["codec"]
        "What coding lost of this worker's contribution, relative to its norm, over a sample of at most 16,384 elements; codec is bf16, uint8 or uint4";
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The page, from this crate's folder.
    const PAGE: &str = "../../docs/src/observing.md";

    fn row(metric: &Metric) -> String {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        format!("| `{}` | {kind} | {} | {} |\n", metric.name, labels.join(", "), metric.help)
    }

    #[test]
    fn the_table_of_the_documentation_is_this_list() {
        let page = std::fs::read_to_string(PAGE).unwrap();
        let table: String = ALL.iter().map(row).collect();
        let table = format!("| metric | kind | labels | meaning |\n|---|---|---|---|\n{table}");
        let (_, rest) = page.split_once("<!-- metrics begin -->\n\n").unwrap();
        let (written, _) = rest.split_once("\n<!-- metrics end -->").unwrap();
        assert_eq!(written, table, "put this between the markers of {PAGE}:\n{table}");
    }

    #[test]
    fn names_follow_the_conventions_of_prometheus() {
        for Metric { name, kind, .. } in ALL {
            assert!(name.starts_with("atoll_"), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
            assert!(ALL.iter().filter(|other| other.name == *name).count() == 1, "{name} is there twice");
        }
    }
}
