//! Network policies against the table of who dials whom, both ways: what the table has is allowed, and nothing else.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{
    helm::{NAMESPACE, Rendered},
    policy::{End, Pod, Port, allows},
    yaml,
};

#[path = "../../../operator/src/ports.rs"]
#[expect(unreachable_pub, reason = "the operator's own file: its table is read here without building the operator")]
mod ports;

use ports::{FLOWS, Flow};
pub(super) use ports::{HUB, OPERATOR_METRICS, Party};

/// Ports that nothing of the table has.
const OTHERS: [u16; 4] = [22, 80, 2379, 10250];
const DNS: u16 = 53;
/// Its policies are never among those that are judged.
const OTHER_RUN: &str = "worker of another run";
const RUN: &str = "atoll.dev/run";
const COMPONENT: &str = "app.kubernetes.io/component";

/// Somebody on the network, with the part that it has in the table, if any.
#[derive(Debug, Clone)]
struct Somebody {
    name: &'static str,
    party: Option<Party>,
    end: End,
}

/// The network of one installation, with two workers of the run `kjv`, and one of another.
#[derive(Debug, Clone)]
pub(super) struct World {
    all: Vec<Somebody>,
    /// Nobody said who scrapes, so that anybody may.
    scraped_by_all: bool,
    /// Parties of which nobody said where they are, so that their ports are open at every address.
    anywhere: Vec<Party>,
}

impl World {
    /// As the chart was installed with these values.
    pub(super) fn of(rendered: &Rendered, values: &Value) -> Result<Self> {
        let operator = rendered.operator()?.pointer("/spec/template/metadata/labels").context("no labels")?;
        let operator: BTreeMap<String, String> = serde_json::from_value(operator.clone())?;
        let watched = rendered.watched()?;
        let home = watched.first().copied().unwrap_or("research");
        let worker = |name, party, namespace, run| pod(name, party, namespace, labels([(RUN, run), (COMPONENT, "worker")]));
        let scraper = rendered.setting("ATOLL_MONITORING_NAMESPACE")?;
        let cidr = yaml::texts(values, "/networkPolicy/apiServerCidrs").first().copied();
        let address = cidr.and_then(|cidr| cidr.split('/').next()).unwrap_or("192.0.2.1");
        let mut all = vec![
            pod("operator", Some(Party::Operator), NAMESPACE, operator),
            worker("worker", Some(Party::Worker), home, "kjv"),
            worker("second worker", Some(Party::Worker), home, "kjv"),
            worker(OTHER_RUN, Some(Party::Worker), home, "other"),
            pod("DNS", Some(Party::Dns), "kube-system", labels([("k8s-app", "kube-dns")])),
            pod("monitoring", Some(Party::Monitoring), scraper.unwrap_or("monitoring"), BTreeMap::new()),
            outside("API server", Some(Party::ApiServer), address)?,
            outside("store", Some(Party::Store), "198.51.100.9")?,
            outside("stranger outside", None, "203.0.113.7")?,
            pod("stranger", None, "elsewhere", BTreeMap::new()),
            pod("neighbour of the operator", None, NAMESPACE, BTreeMap::new()),
        ];
        if !watched.is_empty() {
            all.push(worker("worker of another operator", None, "unwatched", "kjv"));
        }
        let anywhere = if cidr.is_none() { vec![Party::ApiServer] } else { Vec::new() };
        Ok(Self { all, scraped_by_all: scraper.is_none(), anywhere })
    }

    /// The same, as the operator knows it when it makes the policy of a run: it was not told where DNS and stores are.
    pub(super) fn for_runs(mut self) -> Self {
        self.anywhere.extend([Party::Dns, Party::Store]);
        self
    }

    /// Where policies and table differ, among the connections that one of `parties` has a part in.
    ///
    /// `policies` are the chart's, and those that the operator makes for run `kjv` where [`Party::Worker`] is asked for.
    pub(super) fn faults(&self, policies: &[Value], parties: &[Party]) -> Result<(usize, Vec<String>)> {
        let concerned =
            |somebody: &Somebody| somebody.name != OTHER_RUN && somebody.party.is_some_and(|party| parties.contains(&party));
        let (mut asked, mut faults) = (0, Vec::new());
        for from in &self.all {
            for to in self.all.iter().filter(|to| to.name != from.name && (concerned(from) || concerned(to))) {
                for port in all_ports() {
                    asked += 1;
                    let open = allows(policies, &from.end, &to.end, port)?;
                    let path = || format!("{} to {} at {}/{}", from.name, to.name, port.protocol, port.number);
                    match required(from, to, port) {
                        Some(purpose) if !open => faults.push(format!("{} is closed: {purpose}", path())),
                        None if open && !self.tolerated(from, to, port) => {
                            faults.push(format!("{} is open, and not in the table", path()));
                        }
                        _ => {}
                    }
                }
            }
        }
        Ok((asked, faults))
    }

    /// Whether it may be open because nobody said where its other end is.
    fn tolerated(&self, from: &Somebody, to: &Somebody, port: Port) -> bool {
        FLOWS.iter().any(|flow| {
            let scraped = flow.from == Party::Monitoring && self.scraped_by_all && Some(flow.to) == to.party;
            let somewhere = self.anywhere.contains(&flow.to) && Some(flow.from) == from.party;
            carries(flow, port) && (scraped || somewhere)
        })
    }
}

/// Whether a flow is at this port. Names are asked for by both protocols, and a flow of any port is of any protocol.
fn carries(flow: &Flow, port: Port) -> bool {
    flow.port == 0 || flow.port == port.number && (port.protocol == "TCP" || flow.to == Party::Dns)
}

/// What the table has this connection for. Workers dial those of their own run.
fn required(from: &Somebody, to: &Somebody, port: Port) -> Option<&'static str> {
    let run = |somebody: &Somebody| somebody.end.pod.as_ref().and_then(|pod| pod.labels.get(RUN).cloned());
    let flow = FLOWS.iter().find(|flow| {
        carries(flow, port)
            && (port.protocol == "TCP" || flow.to == Party::Dns)
            && Some(flow.from) == from.party
            && Some(flow.to) == to.party
            && (flow.from != flow.to || run(from) == run(to))
    });
    flow.map(|flow| flow.purpose)
}

/// Ports of the table, and others; those of DNS by both protocols.
fn all_ports() -> impl Iterator<Item = Port> {
    let table = FLOWS.iter().map(|flow| flow.port).filter(|port| *port != 0);
    let mut numbers: Vec<u16> = table.chain(OTHERS).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let tcp = numbers.into_iter().map(|number| Port { protocol: "TCP", number });
    tcp.chain([DNS, 443].map(|number| Port { protocol: "UDP", number }))
}

fn labels<const N: usize>(labels: [(&str, &str); N]) -> BTreeMap<String, String> {
    labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

fn pod(name: &'static str, party: Option<Party>, namespace: &str, labels: BTreeMap<String, String>) -> Somebody {
    let pod = Pod { namespace: namespace.to_owned(), labels };
    Somebody { name, party, end: End { address: IpAddr::from([10, 244, 0, 1]), pod: Some(pod) } }
}

fn outside(name: &'static str, party: Option<Party>, address: &str) -> Result<Somebody> {
    let address = address.parse().with_context(|| format!("no address: {address:?}"))?;
    Ok(Somebody { name, party, end: End { address, pod: None } })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn world() -> World {
        let deployment = "kind: Deployment\nspec: {template: {metadata: {labels: {app: operator}}, spec: {containers: [{env: \
                          [{name: ATOLL_MONITORING_NAMESPACE, value: observability}]}]}}}";
        let rendered = Rendered { text: String::new(), documents: yaml::documents(deployment).unwrap() };
        World::of(&rendered, &json!({"networkPolicy": {"apiServerCidrs": ["192.0.2.1/32"]}})).unwrap()
    }

    #[test]
    fn without_policies_everything_is_open_that_the_table_has_not() {
        let (_, faults) = world().faults(&[], &[Party::Operator]).unwrap();
        assert!(faults.iter().all(|fault| fault.ends_with("open, and not in the table")), "{faults:?}");
        assert!(faults.contains(&"stranger to operator at TCP/7470 is open, and not in the table".to_owned()), "{faults:?}");
        assert!(!faults.iter().any(|fault| fault.starts_with("worker to operator at TCP/7470")), "{faults:?}");
    }

    #[test]
    fn what_nobody_said_where_it_is_may_be_open_to_all() {
        let open = "metadata: {namespace: research}\nspec: {podSelector: {}, policyTypes: [Ingress, Egress], \
                    ingress: [{ports: [{port: 7472}]}, {from: [{podSelector: {}}], ports: [{port: 7471}]}], egress: [{}]}";
        let mut world = world();
        world.all.retain(|somebody| somebody.name != OTHER_RUN);
        let (_, faults) = world.clone().for_runs().faults(&yaml::documents(open).unwrap(), &[Party::Worker]).unwrap();
        assert!(faults.iter().all(|fault| fault.contains("at TCP/7472") || fault.contains("second worker")), "{faults:?}");
        let (_, strict) = world.faults(&yaml::documents(open).unwrap(), &[Party::Worker]).unwrap();
        assert!(strict.contains(&"worker to stranger at UDP/53 is open, and not in the table".to_owned()), "{strict:?}");
    }

    #[test]
    fn a_policy_that_closes_everything_closes_what_the_table_has() {
        let closed = "metadata: {namespace: atoll-system}\nspec: {podSelector: {}, policyTypes: [Ingress, Egress]}";
        let (_, faults) = world().faults(&yaml::documents(closed).unwrap(), &[Party::Operator]).unwrap();
        let expected = [
            "operator to DNS at TCP/53 is closed: names",
            "operator to DNS at UDP/53 is closed: names",
            "operator to API server at TCP/443 is closed: watches and writes",
            "operator to API server at TCP/6443 is closed: the same, where the address is not translated",
            "worker to operator at TCP/7470 is closed: identities, terms, progress",
            "second worker to operator at TCP/7470 is closed: identities, terms, progress",
            "worker of another run to operator at TCP/7470 is closed: identities, terms, progress",
            "monitoring to operator at TCP/8080 is closed: metrics",
        ];
        assert_eq!(faults, expected);
    }
}
