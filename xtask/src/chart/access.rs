//! The roles of the chart against the verbs that the operator's code uses, both ways.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{helm::NAMESPACE, yaml};

#[path = "../../../operator/src/rbac.rs"]
#[expect(unreachable_pub, reason = "the operator's own file: its table is read here without building the operator")]
mod rbac;

use rbac::{RULES, Scope};

/// Kinds that belong to the cluster.
const OF_THE_CLUSTER: [&str; 8] = [
    "APIService",
    "ClusterRole",
    "ClusterRoleBinding",
    "ClusterTrainingRuntime",
    "CustomResourceDefinition",
    "Namespace",
    "PriorityClass",
    "ValidatingWebhookConfiguration",
];

/// One verb on one resource in one place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Grant {
    /// Empty: everywhere.
    namespace: String,
    group: String,
    resource: String,
    verb: String,
}

impl Grant {
    fn said(&self) -> String {
        let place = if self.namespace.is_empty() { "the cluster" } else { &self.namespace };
        let resource = if self.group.is_empty() { self.resource.clone() } else { format!("{}/{}", self.group, self.resource) };
        format!("{} {resource} in {place}", self.verb)
    }
}

/// Where roles and table differ, for an operator that watches `watched`, or everything.
pub(super) fn faults(documents: &[Value], account: &str, watched: &[&str]) -> Vec<String> {
    let (granted, mut faults) = granted(documents, account);
    let wanted = wanted(watched);
    faults.extend(wanted.difference(&granted).map(|grant| format!("may not {}", grant.said())));
    faults.extend(granted.difference(&wanted).map(|grant| format!("may {}, which the operator does not", grant.said())));
    if !watched.is_empty() {
        let of_the_cluster = documents.iter().map(|document| yaml::text(document, "/kind"));
        let of_the_cluster = of_the_cluster.filter(|kind| OF_THE_CLUSTER.contains(kind));
        faults.extend(of_the_cluster.map(|kind| format!("{kind} belongs to the cluster, and only namespaces are watched")));
    }
    faults
}

fn wanted(watched: &[&str]) -> BTreeSet<Grant> {
    let mut wanted = BTreeSet::new();
    for rule in RULES {
        let places = match rule.scope {
            Scope::Watched | Scope::Cluster if watched.is_empty() => vec![""],
            Scope::Watched => watched.to_vec(),
            Scope::Cluster => Vec::new(),
            Scope::Own => vec![NAMESPACE],
        };
        for namespace in places {
            wanted.extend(rule.verbs.iter().map(|verb| grant(namespace, rule.group, rule.resource, verb)));
        }
    }
    wanted
}

fn grant(namespace: &str, group: &str, resource: &str, verb: &str) -> Grant {
    let [namespace, group, resource, verb] = [namespace, group, resource, verb].map(str::to_owned);
    Grant { namespace, group, resource, verb }
}

/// What bindings give to a service account of the chart's namespace, and what is wrong with them by themselves.
fn granted(documents: &[Value], account: &str) -> (BTreeSet<Grant>, Vec<String>) {
    let (mut granted, mut faults) = (BTreeSet::new(), Vec::new());
    for binding in documents.iter().filter(|document| yaml::text(document, "/kind").ends_with("RoleBinding")) {
        let bound = yaml::items(binding, "/subjects").iter().any(|subject| {
            [yaml::text(subject, "/kind"), yaml::text(subject, "/name"), yaml::text(subject, "/namespace")]
                == ["ServiceAccount", account, NAMESPACE]
        });
        if !bound {
            faults.push(format!("{} binds others than the operator", yaml::text(binding, "/metadata/name")));
            continue;
        }
        let (kind, name) = (yaml::text(binding, "/roleRef/kind"), yaml::text(binding, "/roleRef/name"));
        let namespace = yaml::text(binding, "/metadata/namespace");
        let home = if kind == "Role" { namespace } else { "" };
        let role = documents.iter().find(|document| {
            [yaml::text(document, "/kind"), yaml::text(document, "/metadata/name"), yaml::text(document, "/metadata/namespace")]
                == [kind, name, home]
        });
        match role {
            None => faults.push(format!("{kind} {name} is bound and is not there")),
            Some(role) => add_rules(role, namespace, &mut granted, &mut faults),
        }
    }
    (granted, faults)
}

fn add_rules(role: &Value, namespace: &str, granted: &mut BTreeSet<Grant>, faults: &mut Vec<String>) {
    for rule in yaml::items(role, "/rules") {
        let verbs = yaml::texts(rule, "/verbs");
        let addresses = yaml::texts(rule, "/nonResourceURLs").into_iter().map(|url| ("", format!("nonresource:{url}")));
        let resources = yaml::texts(rule, "/resources").into_iter();
        let groups = yaml::texts(rule, "/apiGroups");
        let resources = resources.flat_map(|resource| groups.iter().map(move |group| (*group, resource.to_owned())));
        for (group, resource) in resources.chain(addresses) {
            let named = !yaml::texts(rule, "/resourceNames").is_empty();
            if resource == "secrets" && !named && verbs.iter().any(|verb| *verb != "create") {
                faults.push(format!("{} reads secrets without naming them", yaml::text(role, "/metadata/name")));
            }
            granted.extend(verbs.iter().map(|verb| grant(namespace, group, &resource, verb)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BINDING: &str = "
kind: RoleBinding
metadata: {name: own, namespace: atoll-system}
roleRef: {kind: Role, name: own}
subjects: [{kind: ServiceAccount, name: atoll, namespace: atoll-system}]
";

    fn of_role(rules: &str) -> (Vec<String>, Vec<String>) {
        let role = format!("kind: Role\nmetadata: {{name: own, namespace: atoll-system}}\nrules: {rules}\n---\n{BINDING}");
        let (granted, faults) = granted(&yaml::documents(&role).unwrap(), "atoll");
        (granted.iter().map(Grant::said).collect(), faults)
    }

    #[test]
    fn a_rule_is_every_verb_on_every_resource_of_every_group() {
        let (granted, faults) = of_role("[{apiGroups: [\"\", apps], resources: [a, b], verbs: [get]}]");
        let all = ["get a in atoll-system", "get b in atoll-system", "get apps/a in atoll-system", "get apps/b in atoll-system"];
        assert_eq!(granted, all);
        assert_eq!(faults, [""; 0]);
    }

    #[test]
    fn secrets_are_read_by_name_only() {
        let (_, faults) = of_role("[{apiGroups: [\"\"], resources: [secrets], verbs: [create, get]}]");
        assert_eq!(faults, ["own reads secrets without naming them"]);
        let named = "[{apiGroups: [\"\"], resources: [secrets], resourceNames: [key], verbs: [get]}]";
        assert_eq!(of_role(named).1, [""; 0]);
    }

    #[test]
    fn too_much_and_too_little_are_named() {
        let faults = faults(&[], "atoll", &["research"]);
        assert!(faults.contains(&"may not delete pods in research".to_owned()), "{faults:?}");
        assert!(faults.contains(&"may not get secrets in atoll-system".to_owned()), "{faults:?}");
        assert!(!faults.iter().any(|fault| fault.contains("the cluster")), "{faults:?}");
    }

    #[test]
    fn nothing_of_the_cluster_is_made_where_namespaces_are_watched() {
        let faults = faults(&yaml::documents("kind: ClusterRole").unwrap(), "atoll", &["research"]);
        assert!(faults.contains(&"ClusterRole belongs to the cluster, and only namespaces are watched".to_owned()), "{faults:?}");
    }
}
