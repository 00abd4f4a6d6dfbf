//! Alerts and dashboard: they ask for metrics that somebody has, and every alert has a runbook.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{helm::Rendered, yaml};

/// What a histogram adds to its name.
const SERIES: [&str; 3] = ["_bucket", "_sum", "_count"];

/// Names of metrics that stand as texts in a source file.
pub(super) fn declared(source: &str) -> BTreeSet<String> {
    source.split('"').skip(1).step_by(2).filter(|text| text.starts_with("atoll_")).map(str::to_owned).collect()
}

/// Names of metrics in a query.
fn asked(query: &str) -> BTreeSet<String> {
    let words = query.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
    let names = words.filter(|word| word.starts_with("atoll_"));
    names.map(|name| SERIES.iter().find_map(|series| name.strip_suffix(series)).unwrap_or(name).to_owned()).collect()
}

/// How many queries alerts and dashboard have, and those for what `declared` has not.
pub(super) fn unknown(rendered: &Rendered, dashboard: &Value, declared: &BTreeSet<String>) -> (usize, Vec<String>) {
    let mut queries: Vec<&str> = alerts(rendered).map(|alert| yaml::text(alert, "/expr")).collect();
    let panels = yaml::items(dashboard, "/panels").iter();
    queries.extend(panels.flat_map(|panel| yaml::items(panel, "/targets")).map(|target| yaml::text(target, "/expr")));
    queries.extend(yaml::items(dashboard, "/templating/list").iter().map(|variable| yaml::text(variable, "/definition")));
    let names: BTreeSet<String> = queries.iter().flat_map(|query| asked(query)).collect();
    let unknown = names.difference(declared).map(|name| format!("{name} is a metric of nobody")).collect();
    (queries.len(), unknown)
}

/// Alerts whose runbook is not a heading of `page`, and alerts without severity, summary or description.
pub(super) fn bare(rendered: &Rendered, page: Option<&str>) -> Vec<String> {
    let mut faults = Vec::new();
    for alert in alerts(rendered) {
        let name = yaml::text(alert, "/alert");
        for pointer in ["/labels/severity", "/annotations/summary", "/annotations/description", "/annotations/runbook_url"] {
            if yaml::text(alert, pointer).is_empty() {
                faults.push(format!("{name} has no {pointer}"));
            }
        }
        let anchor = name.to_lowercase();
        if !yaml::text(alert, "/annotations/runbook_url").ends_with(&anchor) {
            faults.push(format!("{name} names another alert's runbook"));
        }
        let heading = |line: &str| line.starts_with('#') && line.trim_start_matches('#').trim() == name;
        if page.is_some_and(|page| !page.lines().any(heading)) {
            faults.push(format!("{name} has no runbook: a heading of its name in docs/src/operations.md"));
        }
    }
    faults
}

fn alerts(rendered: &Rendered) -> impl Iterator<Item = &Value> {
    let groups = rendered.of("PrometheusRule").flat_map(|rule| yaml::items(rule, "/spec/groups"));
    groups.flat_map(|group| yaml::items(group, "/rules"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rendered() -> Rendered {
        let text = "
kind: PrometheusRule
spec:
  groups:
    - rules:
        - alert: AtollDown
          expr: absent(atoll_operator_leader == 1)
          labels: {severity: critical}
          annotations: {summary: a, description: b, runbook_url: 'https://example/#atolldown'}
";
        Rendered { text: String::new(), documents: yaml::documents(text).unwrap() }
    }

    #[test]
    fn a_metric_that_nobody_has_is_named() {
        let dashboard = json!({"panels": [{"targets": [{"expr": "sum(rate(atoll_phase_seconds_bucket{run=\"a\"}[5m]))"}]}]});
        let declared = declared("LEADER: Gauge \"atoll_operator_leader\" [\"run\"] \"Always 1\";");
        assert_eq!(unknown(&rendered(), &dashboard, &declared), (2, vec!["atoll_phase_seconds is a metric of nobody".into()]));
    }

    #[test]
    fn an_alert_has_a_heading_in_the_page_of_runbooks() {
        assert_eq!(bare(&rendered(), Some("# Operations\n\n### AtollDown\n")), [""; 0]);
        let missing = bare(&rendered(), Some("# Operations\n"));
        assert_eq!(missing, ["AtollDown has no runbook: a heading of its name in docs/src/operations.md"]);
    }
}
