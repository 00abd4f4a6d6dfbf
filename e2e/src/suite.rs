//! The table of cases, and how each of them is performed.

use std::time::Instant;

use anyhow::Result;
use futures::future::LocalBoxFuture;

use crate::Arguments;
use crate::cases::{faults, lifecycle, results, scaling, waiting};
use crate::cluster::Cluster;
use crate::lab::Lab;

/// What a case has.
pub(crate) struct Ground {
    pub(crate) cluster: Cluster,
    pub(crate) namespace: String,
    /// Only where the case needs one.
    pub(crate) lab: Option<Lab>,
    pub(crate) atoll: Option<std::path::PathBuf>,
}

/// A case.
struct Case {
    name: &'static str,
    /// It is in the reduced pass.
    quick: bool,
    /// It needs power over nodes.
    needs_lab: bool,
    perform: for<'a> fn(&'a Ground) -> LocalBoxFuture<'a, Result<()>>,
}

macro_rules! case {
    ($module:ident :: $name:ident, $quick:expr, $lab:expr) => {
        Case { name: stringify!($name), quick: $quick, needs_lab: $lab, perform: |ground| Box::pin($module::$name(ground)) }
    };
}

/// All cases, in their order.
const CASES: [Case; 15] = [
    case!(results::same_result_as_on_this_machine, false, false),
    case!(faults::a_pod_is_deleted, true, false),
    case!(faults::the_coordinators_sidecar_is_killed, true, true),
    case!(faults::the_operator_is_killed, true, false),
    case!(faults::the_api_server_is_away, true, true),
    case!(scaling::two_to_four_to_one, true, false),
    case!(lifecycle::suspended_and_resumed, true, false),
    case!(lifecycle::deadline, false, false),
    case!(lifecycle::time_to_live, false, false),
    case!(lifecycle::deleted_in_the_middle, false, false),
    case!(lifecycle::its_namespace_is_deleted, false, false),
    case!(waiting::no_runtime_then_one, false, false),
    case!(waiting::image_that_cannot_be_pulled, false, false),
    case!(waiting::quota_refuses, false, false),
    case!(faults::a_node_loses_its_power, false, true),
];

/// How many passed, failed, and were skipped.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    passed: usize,
    failed: usize,
    skipped: usize,
    seconds: u64,
}

impl Tally {
    /// One line of JSON.
    pub(crate) fn line(&self) -> String {
        let Self { passed, failed, skipped, seconds } = self;
        format!(r#"{{"passed":{passed},"failed":{failed},"skipped":{skipped},"seconds":{seconds}}}"#)
    }

    pub(crate) fn is_good(&self) -> bool {
        self.failed == 0 && self.passed > 0
    }
}

/// Prints the names of all cases.
pub(crate) fn list() {
    for case in &CASES {
        println!("{}{}{}", case.name, if case.quick { " (quick)" } else { "" }, if case.needs_lab { " (lab)" } else { "" });
    }
}

/// Performs the cases that were asked for, one after the other.
pub(crate) async fn perform(arguments: &Arguments) -> Result<Tally> {
    let cluster = Cluster::of(&arguments.kubeconfig, &arguments.system).await?;
    let lab = arguments.lab.as_deref().map(|script| Lab::new(script, arguments.number));
    let started = Instant::now();
    let mut tally = Tally::default();
    let named = |case: &Case| arguments.names.is_empty() || arguments.names.iter().any(|name| case.name.contains(name.as_str()));
    for case in CASES.iter().filter(|case| named(case) && (!arguments.quick || case.quick)) {
        if case.needs_lab && lab.is_none() {
            println!("{}: skipped: it needs --lab, for power over nodes", case.name);
            tally.skipped += 1;
            continue;
        }
        let namespace = format!("e2e-{}", case.name.replace('_', "-"));
        let ground = Ground { cluster: cluster.clone(), namespace, lab: lab.clone(), atoll: arguments.atoll.clone() };
        let since = Instant::now();
        match performed(case, &ground).await {
            Ok(()) => {
                tally.passed += 1;
                println!("{}: passed, {:.1} s", case.name, since.elapsed().as_secs_f64());
            }
            Err(error) => {
                tally.failed += 1;
                println!("{}: FAILED, {:.1} s: {error:#}", case.name, since.elapsed().as_secs_f64());
            }
        }
    }
    tally.seconds = started.elapsed().as_secs();
    Ok(tally)
}

async fn performed(case: &Case, ground: &Ground) -> Result<()> {
    ground.cluster.remove_namespace(&ground.namespace).await?;
    ground.cluster.make_namespace(&ground.namespace).await?;
    let result = (case.perform)(ground).await;
    if result.is_err() {
        println!("{}", ground.cluster.show(&ground.namespace).await);
    }
    let removed = ground.cluster.remove_namespace(&ground.namespace).await;
    result.and(removed)
}
