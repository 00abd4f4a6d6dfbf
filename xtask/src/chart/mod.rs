//! The chart, held against what it is made from: the CRDs, the operator's verbs, ports and settings, and its own values.

mod access;
mod flows;
mod golden;
mod helm;
mod monitoring;
mod pages;
mod pods;
mod policy;
mod schema;
mod server;
mod settings;
mod values;
mod yaml;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{
    figures::{Figure, Figures},
    paths,
    tally::Tally,
};
use flows::{Party, World};
use helm::{Helm, Rendered};

const CHART: &str = "helm/atoll";
const GOLDEN: &str = "helm/golden";
/// Values files in the chart's folder `ci`.
const INSTALLATIONS: [&str; 5] = ["default", "ha", "namespaced", "restricted", "everything-on"];
/// Sources of the operator that read its environment.
const SETTINGS: [&str; 2] = ["operator/src/settings.rs", "operator/src/main.rs"];
/// Sources with the names of metrics.
const METRICS: [&str; 3] =
    ["trainer-image/sidecar/src/metrics/names.rs", "operator/src/metrics.rs", "operator/src/hub/metrics.rs"];
const RUNBOOKS: &str = "docs/src/operations.md";

/// What is asked for.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// Write what is made from other files: CRDs, tables of values, golden manifests
    #[arg(long)]
    write: bool,
    /// Have the API server of this kubeconfig try each installation, without making anything
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Judge the network policy of a run too: YAML of the one of run kjv in namespace research with remote stores
    #[arg(long, value_name = "FILE")]
    policies: Option<PathBuf>,
}

/// The chart with one of the values files.
struct Installation {
    name: &'static str,
    file: PathBuf,
    rendered: Rendered,
}

/// Checks the chart.
pub(crate) fn perform(arguments: &Arguments) -> Result<Tally> {
    let chart = paths::root().join(CHART);
    let helm = Helm::find(chart.clone())?;
    let values = values::described(&read(&format!("{CHART}/values.yaml"))?)?;
    let (definitions, stale) = pages::stale_copies(arguments.write)?;
    let drifted = pages::drifted(&values, arguments.write)?;
    let mut installations = Vec::new();
    for name in INSTALLATIONS {
        let file = chart.join("ci").join(format!("{name}-values.yaml"));
        let rendered = helm.rendered(&file)?;
        installations.push(Installation { name, file, rendered });
    }
    let schema: Value = serde_json::from_str(&read(&format!("{CHART}/values.schema.json"))?).context("values.schema.json")?;
    let (refused, taken) = schema::taken(&helm)?;
    let mut figures = Figures(vec![
        Figure::none(format!("{definitions} CRDs that are not those of the types"), &stale),
        Figure::none(format!("pages that differ from {} values", values.len()), &drifted),
        Figure::none("what the chart says of itself wrongly", &pages::misdescribed()?),
        Figure::none("values that the schema does not bound", &schema::faults(&schema, &values)),
        Figure::none(format!("of {refused} bad values those that are not refused well"), &taken),
    ]);
    figures.0.extend(of_installations(&helm, &installations, arguments.write)?);
    figures.0.extend(of_tables(&installations)?);
    figures.0.extend(of_monitoring(&installations)?);
    if let Some(file) = &arguments.policies {
        figures.0.push(of_run(file, &installations)?);
    }
    if let Some(kubeconfig) = &arguments.kubeconfig {
        figures.0.push(on_server(kubeconfig, &installations)?);
    }
    Ok(figures.conclude("chart"))
}

fn read(name: &str) -> Result<String> {
    fs::read_to_string(paths::root().join(name)).with_context(|| format!("cannot read {name}"))
}

/// Lint, golden manifests, notes and pods.
fn of_installations(helm: &Helm, installations: &[Installation], write: bool) -> Result<Vec<Figure>> {
    let (mut lint, mut changed, mut notes, mut pods, mut containers) = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), 0);
    for Installation { name, file, rendered } in installations {
        let of_this = |fault: String| format!("{name}: {fault}");
        lint.extend(helm.lint(file)?.into_iter().map(of_this));
        let golden = paths::root().join(GOLDEN).join(format!("{name}.yaml"));
        let before = fs::read_to_string(&golden).unwrap_or_default();
        let kept = golden::kept(&rendered.text);
        if !golden::holds(&golden, &kept, write)? {
            changed.push(of_this(golden::first_difference(&before, &kept)));
        }
        changed.extend(pages::changed_definitions(rendered, *name != "everything-on")?.into_iter().map(of_this));
        let said = helm.notes(file)?;
        if !(said.contains("kubectl --namespace") && said.contains("kind: TrainingRun") && said.contains("--watch")) {
            notes.push(of_this("the notes do not tell how to train and watch".to_owned()));
        }
        let (count, faults) = pods::faults(rendered);
        containers += count;
        pods.extend(faults.into_iter().map(of_this));
    }
    Ok(vec![
        Figure::none(format!("lint of {} values files", installations.len()), &lint),
        Figure::none("manifests that differ from the golden ones, CRDs from those of the types", &changed),
        Figure::none("notes without the next command", &notes),
        Figure::none(format!("what {containers} containers lack for restricted pod security"), &pods),
    ])
}

/// Roles, network policies, environment.
fn of_tables(installations: &[Installation]) -> Result<Vec<Figure>> {
    let (mut roles, mut flows, mut connections) = (Vec::new(), Vec::new(), 0);
    let defaults = read(&format!("{CHART}/values.yaml"))?;
    for Installation { name, file, rendered } in installations {
        let account = yaml::text(rendered.operator()?, "/spec/template/spec/serviceAccountName");
        let of_this = |fault: String| format!("{name}: {fault}");
        roles.extend(access::faults(&rendered.documents, account, &rendered.watched()?).into_iter().map(of_this));
        let own = yaml::document(&fs::read_to_string(file)?)?;
        let values = if own.pointer("/networkPolicy/apiServerCidrs").is_some() { own } else { yaml::document(&defaults)? };
        let policies: Vec<Value> = rendered.of("NetworkPolicy").cloned().collect();
        let (asked, faults) = World::of(rendered, &values)?.faults(&policies, &[Party::Operator])?;
        connections += asked;
        flows.extend(faults.into_iter().map(of_this));
    }
    let all: Vec<&Rendered> = installations.iter().map(|installation| &installation.rendered).collect();
    let settings = SETTINGS.iter().map(|name| read(name)).collect::<Result<String>>()?;
    Ok(vec![
        Figure::none("verbs that roles and code do not share", &roles),
        Figure::none(format!("of {connections} connections those that policies and table judge otherwise"), &flows),
        Figure::none("settings that chart and operator do not share", &settings::faults(&all, &settings)?),
    ])
}

/// The network policy of a run, together with those of the chart as it comes.
fn of_run(file: &Path, installations: &[Installation]) -> Result<Figure> {
    let rendered = &installations.first().context("no installation")?.rendered;
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut policies: Vec<Value> = rendered.of("NetworkPolicy").cloned().collect();
    policies.extend(yaml::documents(&text)?);
    let world = World::of(rendered, &yaml::document(&read(&format!("{CHART}/values.yaml"))?)?)?.for_runs();
    let (asked, faults) = world.faults(&policies, &[Party::Operator, Party::Worker])?;
    Ok(Figure::none(format!("of {asked} connections with workers those that policies and table judge otherwise"), &faults))
}

/// Alerts and dashboard, from the installation that has all of them.
fn of_monitoring(installations: &[Installation]) -> Result<Vec<Figure>> {
    let everything = installations.last().context("no installation")?;
    let dashboard = everything.rendered.of("ConfigMap").find_map(|map| map.pointer("/data/atoll.json")?.as_str());
    let dashboard: Value = serde_json::from_str(dashboard.context("no dashboard")?).context("the dashboard is no JSON")?;
    let sources = METRICS.iter().map(|name| read(name)).collect::<Result<String>>()?;
    let declared = monitoring::declared(&sources);
    let (queries, unknown) = monitoring::unknown(&everything.rendered, &dashboard, &declared);
    let page = read(RUNBOOKS).ok();
    Ok(vec![
        Figure::none(format!("of {queries} queries those for no metric"), &unknown),
        Figure::none("alerts without a runbook", &monitoring::bare(&everything.rendered, page.as_deref())),
    ])
}

/// What a real API server refuses.
fn on_server(kubeconfig: &Path, installations: &[Installation]) -> Result<Figure> {
    let server = server::server(kubeconfig)?;
    let (mut known, mut unknown, mut faults) = (0, 0, Vec::new());
    for Installation { name, rendered, .. } in installations {
        let (taken, passed_over, refused) = server.faults(name, rendered)?;
        known += taken;
        unknown += passed_over;
        faults.extend(refused);
    }
    let name = format!("of {known} objects those that the API server refuses ({unknown} are of kinds that it has not)");
    Ok(Figure::none(name, &faults))
}
