//! Network policies, evaluated as Kubernetes describes them: a connection is allowed when the policies of both its ends allow it.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::yaml;

/// The one label that every namespace has.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

/// An end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct End {
    /// Its address.
    pub(super) address: IpAddr,
    /// Its pod, where it is one.
    pub(super) pod: Option<Pod>,
}

/// A pod, as policies see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pod {
    /// Its namespace.
    pub(super) namespace: String,
    /// Its labels.
    pub(super) labels: BTreeMap<String, String>,
}

/// What is dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Port {
    /// TCP or UDP.
    pub(super) protocol: &'static str,
    /// Its number.
    pub(super) number: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Ingress,
    Egress,
}

/// Whether the policies let `from` reach `to`.
///
/// # Errors
/// Where a policy uses what is not evaluated here: names of ports, and CIDRs that are none.
pub(super) fn allows(policies: &[Value], from: &End, to: &End, port: Port) -> Result<bool> {
    let leaves = lets(policies, Direction::Egress, from, to, port)?;
    Ok(leaves && lets(policies, Direction::Ingress, to, from, port)?)
}

/// Whether the policies of `own`, if it has any for this direction, let it talk with `other`.
fn lets(policies: &[Value], direction: Direction, own: &End, other: &End, port: Port) -> Result<bool> {
    let Some(pod) = &own.pod else { return Ok(true) };
    let (kind, rules, peers) = match direction {
        Direction::Ingress => ("Ingress", "/spec/ingress", "/from"),
        Direction::Egress => ("Egress", "/spec/egress", "/to"),
    };
    let mut selected = false;
    for policy in policies {
        let home = yaml::text(policy, "/metadata/namespace");
        let types = yaml::texts(policy, "/spec/policyTypes");
        let of_direction = types.contains(&kind) || types.is_empty() && (kind == "Ingress" || policy.pointer(rules).is_some());
        if home != pod.namespace || !of_direction || !selects(policy.pointer("/spec/podSelector"), &pod.labels)? {
            continue;
        }
        selected = true;
        for rule in yaml::items(policy, rules) {
            if has_port(rule, port)? && has_peer(yaml::items(rule, peers), home, other)? {
                return Ok(true);
            }
        }
    }
    Ok(!selected)
}

fn has_port(rule: &Value, port: Port) -> Result<bool> {
    let ports = yaml::items(rule, "/ports");
    for allowed in ports {
        let protocol = allowed.get("protocol").and_then(Value::as_str).unwrap_or("TCP");
        let first = match allowed.get("port") {
            None => 0,
            Some(first) => first.as_u64().with_context(|| format!("a port is no number: {first}"))?,
        };
        let last = allowed.get("endPort").and_then(Value::as_u64).unwrap_or(if first == 0 { u64::MAX } else { first });
        if protocol == port.protocol && (first..=last).contains(&u64::from(port.number)) {
            return Ok(true);
        }
    }
    Ok(ports.is_empty())
}

fn has_peer(peers: &[Value], home: &str, other: &End) -> Result<bool> {
    for peer in peers {
        let matches = match (peer.get("ipBlock"), &other.pod) {
            (Some(block), _) => in_block(block, other.address)?,
            (None, None) => false,
            (None, Some(pod)) => {
                let namespace = BTreeMap::from([(NAMESPACE_NAME.to_owned(), pod.namespace.clone())]);
                let in_namespace = match peer.get("namespaceSelector") {
                    None => pod.namespace == home,
                    selector => selects(selector, &namespace)?,
                };
                in_namespace && selects(peer.get("podSelector"), &pod.labels)?
            }
        };
        if matches {
            return Ok(true);
        }
    }
    Ok(peers.is_empty())
}

fn in_block(block: &Value, address: IpAddr) -> Result<bool> {
    let mut within = contains(yaml::text(block, "/cidr"), address)?;
    for except in yaml::texts(block, "/except") {
        within = within && !contains(except, address)?;
    }
    Ok(within)
}

/// Whether an address is in a network such as `10.0.0.0/8`.
fn contains(cidr: &str, address: IpAddr) -> Result<bool> {
    let no_cidr = || format!("no CIDR: {cidr:?}");
    let (network, bits) = cidr.split_once('/').with_context(no_cidr)?;
    let bits: u32 = bits.parse().with_context(no_cidr)?;
    let same = |left: u128, right: u128, width: u32| bits == 0 || (left ^ right) >> width.saturating_sub(bits) == 0;
    Ok(match (network.parse().with_context(no_cidr)?, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => same(network.to_bits().into(), address.to_bits().into(), 32),
        (IpAddr::V6(network), IpAddr::V6(address)) => same(network.to_bits(), address.to_bits(), 128),
        _ => false,
    })
}

/// Whether a selector selects what has these labels; an empty one selects everything, and so does none.
fn selects(selector: Option<&Value>, labels: &BTreeMap<String, String>) -> Result<bool> {
    let Some(selector) = selector else { return Ok(true) };
    let exact = selector.get("matchLabels").and_then(Value::as_object).into_iter().flatten();
    for (name, value) in exact {
        if labels.get(name).map(String::as_str) != value.as_str() {
            return Ok(false);
        }
    }
    for expression in yaml::items(selector, "/matchExpressions") {
        let value = labels.get(yaml::text(expression, "/key"));
        let among = value.is_some_and(|value| yaml::texts(expression, "/values").contains(&value.as_str()));
        let holds = match yaml::text(expression, "/operator") {
            "In" => among,
            "NotIn" => !among,
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            other => bail!("no operator of selectors: {other:?}"),
        };
        if !holds {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HTTP: Port = Port { protocol: "TCP", number: 80 };

    fn pod(namespace: &str, app: &str) -> End {
        let labels = BTreeMap::from([("app".to_owned(), app.to_owned())]);
        End { address: IpAddr::from([10, 0, 0, 1]), pod: Some(Pod { namespace: namespace.to_owned(), labels }) }
    }

    fn outside(address: [u8; 4]) -> End {
        End { address: address.into(), pod: None }
    }

    /// Policies of one pod in `home` with this spec.
    fn policy(spec: &str) -> Vec<Value> {
        yaml::documents(&format!(
            "metadata: {{namespace: home}}\nspec: {{podSelector: {{matchLabels: {{app: server}}}}, {spec}}}"
        ))
        .unwrap()
    }

    fn reaches_server(spec: &str, from: &End) -> bool {
        allows(&policy(spec), from, &pod("home", "server"), HTTP).unwrap()
    }

    #[test]
    fn a_pod_that_no_policy_selects_is_open() {
        assert!(allows(&policy("policyTypes: [Ingress]"), &pod("home", "a"), &pod("home", "b"), HTTP).unwrap());
        assert!(allows(&policy("policyTypes: [Egress]"), &pod("home", "a"), &pod("home", "server"), HTTP).unwrap());
        assert!(allows(&policy("policyTypes: [Ingress]"), &pod("home", "a"), &pod("away", "server"), HTTP).unwrap());
    }

    #[test]
    fn a_policy_without_rules_closes_its_direction() {
        assert!(!reaches_server("policyTypes: [Ingress]", &pod("home", "a")));
        assert!(!allows(&policy("policyTypes: [Egress]"), &pod("home", "server"), &outside([9, 9, 9, 9]), HTTP).unwrap());
    }

    #[test]
    fn a_rule_without_peers_or_ports_is_for_all_of_them() {
        assert!(reaches_server("ingress: [{}]", &outside([9, 9, 9, 9])));
        assert!(reaches_server("ingress: [{ports: [{port: 80}]}]", &pod("away", "a")));
        assert!(!reaches_server("ingress: [{ports: [{port: 81}]}]", &pod("away", "a")));
        assert!(!reaches_server("ingress: [{ports: [{protocol: UDP, port: 80}]}]", &pod("away", "a")));
        assert!(reaches_server("ingress: [{ports: [{port: 70, endPort: 90}]}]", &pod("away", "a")));
    }

    #[test]
    fn selectors_of_one_peer_must_both_match_and_pods_alone_are_those_of_the_policys_namespace() {
        let of_pods = "ingress: [{from: [{podSelector: {matchLabels: {app: a}}}]}]";
        assert!(reaches_server(of_pods, &pod("home", "a")));
        assert!(!reaches_server(of_pods, &pod("away", "a")));
        let both = "ingress: [{from: [{podSelector: {matchExpressions: [{key: app, operator: In, values: [a]}]}, \
                    namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: away}}}]}]";
        assert!(reaches_server(both, &pod("away", "a")));
        assert!(!reaches_server(both, &pod("away", "b")));
        assert!(!reaches_server(both, &pod("home", "a")));
        assert!(!reaches_server(both, &outside([9, 9, 9, 9])));
    }

    #[test]
    fn addresses_are_matched_by_their_bits_and_exceptions_are_taken_out() {
        let block = "ingress: [{from: [{ipBlock: {cidr: 192.0.2.0/24, except: [192.0.2.128/25]}}]}]";
        assert!(reaches_server(block, &outside([192, 0, 2, 127])));
        assert!(!reaches_server(block, &outside([192, 0, 2, 128])));
        assert!(!reaches_server(block, &outside([192, 0, 3, 1])));
        assert!(contains("0.0.0.0/0", IpAddr::from([9, 9, 9, 9])).unwrap());
        assert!(!contains("::/0", IpAddr::from([9, 9, 9, 9])).unwrap());
        assert!(contains("2001:db8::/32", "2001:db8::10".parse().unwrap()).unwrap());
    }

    #[test]
    fn what_is_not_evaluated_is_an_error_and_not_an_answer() {
        let named = policy("ingress: [{ports: [{port: http}]}]");
        assert!(allows(&named, &pod("home", "a"), &pod("home", "server"), HTTP).is_err());
        assert!(contains("192.0.2.1", IpAddr::from([9, 9, 9, 9])).is_err());
    }
}
