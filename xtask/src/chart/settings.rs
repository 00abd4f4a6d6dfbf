//! The environment and ports of the operator's container against the settings that its program has.

use std::collections::BTreeSet;

use anyhow::Result;

use super::{flows, helm::Rendered, yaml};

/// Names of the environment variables that a source reads: as clap's attribute, or for the filter of the log.
fn variables(source: &str) -> BTreeSet<String> {
    let marked = ["env = \"", "from_env(\""].into_iter().flat_map(|mark| source.split(mark).skip(1));
    marked.filter_map(|rest| rest.split_once('"')).map(|(name, _)| name.to_owned()).collect()
}

/// Where what the chart sets in `all` installations together, and what the program reads, differ.
pub(super) fn faults(all: &[&Rendered], source: &str) -> Result<Vec<String>> {
    let read = variables(source);
    let mut set = BTreeSet::new();
    let mut faults = Vec::new();
    for rendered in all {
        for (name, value) in rendered.environment()? {
            if name.starts_with("ATOLL_") || name.starts_with("POD_") {
                set.insert(name.to_owned());
            }
            if name == "ATOLL_HUB_ADDRESS" && !value.ends_with(&format!(":{}", flows::HUB)) {
                faults.push(format!("{name} is {value}, and the hub listens at {}", flows::HUB));
            }
        }
        let listens: BTreeSet<u64> = yaml::items(rendered.operator()?, "/spec/template/spec/containers/0/ports")
            .iter()
            .filter_map(|port| port.get("containerPort")?.as_u64())
            .collect();
        if listens != BTreeSet::from([flows::HUB.into(), flows::OPERATOR_METRICS.into()]) {
            faults.push(format!("the operator's ports are {listens:?}"));
        }
    }
    faults.extend(read.difference(&set).map(|name| format!("{name} is read by the operator, and no values set it")));
    faults.extend(set.difference(&read).map(|name| format!("{name} is set, and the operator does not read it")));
    Ok(faults)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &str) -> Rendered {
        let text = format!(
            "kind: Deployment\nspec: {{template: {{spec: {{containers: [{{env: [{{name: {name}, value: a}}], \
             ports: [{{containerPort: 7470}}, {{containerPort: 8080}}]}}]}}}}}}"
        );
        Rendered { text: String::new(), documents: yaml::documents(&text).unwrap() }
    }

    #[test]
    fn what_only_one_side_knows_is_named() {
        let source = "#[arg(long, env = \"ATOLL_LEASE\", default_value = \"a\")]";
        assert_eq!(faults(&[&with("ATOLL_LEASE")], source).unwrap(), [""; 0]);
        let both =
            ["ATOLL_LEASE is read by the operator, and no values set it", "ATOLL_LEAS is set, and the operator does not read it"];
        assert_eq!(faults(&[&with("ATOLL_LEAS")], source).unwrap(), both);
    }

    #[test]
    fn an_address_with_another_port_is_named() {
        let faults = faults(&[&with("ATOLL_HUB_ADDRESS")], "env = \"ATOLL_HUB_ADDRESS\"").unwrap();
        assert_eq!(faults, ["ATOLL_HUB_ADDRESS is a, and the hub listens at 7470"]);
    }
}
