//! Pods of the chart against Kubernetes' restricted level of pod security, and what it does not ask: no writable root, bounds.

use serde_json::{Value, json};

use super::{helm::Rendered, yaml};

/// What every pod template of these objects falls short of, and how many containers there are.
pub(super) fn faults(rendered: &Rendered) -> (usize, Vec<String>) {
    let (mut count, mut faults) = (0, Vec::new());
    for document in &rendered.documents {
        let pod = match yaml::text(document, "/kind") {
            "Pod" => document.get("spec"),
            "CronJob" => document.pointer("/spec/jobTemplate/spec/template/spec"),
            _ => document.pointer("/spec/template/spec"),
        };
        let Some(pod) = pod else { continue };
        let name = yaml::text(document, "/metadata/name");
        faults.extend(of_pod(pod).into_iter().map(|fault| format!("{name}: {fault}")));
        for list in ["/initContainers", "/containers", "/ephemeralContainers"] {
            for container in yaml::items(pod, list) {
                count += 1;
                let of_container = of_container(pod, container);
                let name = format!("{name}/{}", yaml::text(container, "/name"));
                faults.extend(of_container.into_iter().map(|fault| format!("{name}: {fault}")));
            }
        }
    }
    (count, faults)
}

fn of_pod(pod: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    for shared in ["hostNetwork", "hostPID", "hostIPC"] {
        if pod.get(shared).is_some_and(|value| *value != json!(false)) {
            faults.push(format!("{shared} is set"));
        }
    }
    let harmless = ["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"];
    for volume in yaml::items(pod, "/volumes") {
        let kinds = volume.as_object().into_iter().flat_map(|fields| fields.keys()).filter(|field| *field != "name");
        faults.extend(kinds.filter(|kind| !harmless.contains(&kind.as_str())).map(|kind| format!("a volume is of {kind}")));
    }
    faults
}

fn of_container(pod: &Value, container: &Value) -> Vec<String> {
    let own = |pointer: &str| container.pointer(&format!("/securityContext{pointer}"));
    let either = |pointer: &str| own(pointer).or_else(|| pod.pointer(&format!("/securityContext{pointer}")));
    let is = |value: Option<&Value>, wanted: Value| value == Some(&wanted);
    let user = either("/runAsUser").and_then(Value::as_u64);
    let seccomp = either("/seccompProfile/type").and_then(Value::as_str);
    let added = own("/capabilities/add").and_then(Value::as_array).into_iter().flatten();
    let checks = [
        ("runAsNonRoot is not true", is(either("/runAsNonRoot"), json!(true))),
        ("runAsUser is not a user above 0", user.is_some_and(|user| user > 0)),
        ("seccompProfile is neither RuntimeDefault nor Localhost", matches!(seccomp, Some("RuntimeDefault" | "Localhost"))),
        ("allowPrivilegeEscalation is not false", is(own("/allowPrivilegeEscalation"), json!(false))),
        ("capabilities are not dropped", is(own("/capabilities/drop"), json!(["ALL"]))),
        ("capabilities are added", added.filter(|added| **added != json!("NET_BIND_SERVICE")).count() == 0),
        ("it is privileged", !is(own("/privileged"), json!(true))),
        ("readOnlyRootFilesystem is not true", is(own("/readOnlyRootFilesystem"), json!(true))),
        ("a port is the host's", yaml::items(container, "/ports").iter().all(|port| port.get("hostPort").is_none())),
        ("no CPU is requested", container.pointer("/resources/requests/cpu").is_some()),
        ("memory has no request and limit", {
            ["requests", "limits"].iter().all(|kind| container.pointer(&format!("/resources/{kind}/memory")).is_some())
        }),
    ];
    checks.into_iter().filter(|(_, holds)| !holds).map(|(fault, _)| fault.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "
kind: Pod
metadata: {name: a}
spec:
  securityContext: {runAsNonRoot: true, runAsUser: 65532, seccompProfile: {type: RuntimeDefault}}
  containers:
    - name: b
      resources: {requests: {cpu: 1m, memory: 1Mi}, limits: {memory: 1Mi}}
      securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
";

    fn of(text: &str) -> Vec<String> {
        faults(&Rendered { text: String::new(), documents: yaml::documents(text).unwrap() }).1
    }

    #[test]
    fn a_restricted_pod_has_no_faults() {
        assert_eq!(of(GOOD), [""; 0]);
    }

    #[test]
    fn each_loosening_is_named() {
        for (tight, loose, fault) in [
            ("runAsNonRoot: true, ", "", "a/b: runAsNonRoot is not true"),
            ("65532", "0", "a/b: runAsUser is not a user above 0"),
            ("RuntimeDefault", "Unconfined", "a/b: seccompProfile is neither RuntimeDefault nor Localhost"),
            ("allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true", "a/b: allowPrivilegeEscalation is not false"),
            ("drop: [ALL]", "drop: [NET_RAW]", "a/b: capabilities are not dropped"),
            ("drop: [ALL]", "drop: [ALL], add: [SYS_ADMIN]", "a/b: capabilities are added"),
            ("readOnlyRootFilesystem: true", "privileged: false", "a/b: readOnlyRootFilesystem is not true"),
            ("name: b", "name: b\n      ports: [{containerPort: 1, hostPort: 1}]", "a/b: a port is the host's"),
            ("cpu: 1m, ", "", "a/b: no CPU is requested"),
            ("limits: {memory: 1Mi}", "limits: {}", "a/b: memory has no request and limit"),
            ("spec:", "spec:\n  hostNetwork: true", "a: hostNetwork is set"),
            ("spec:", "spec:\n  volumes: [{name: c, hostPath: {path: /}}]", "a: a volume is of hostPath"),
        ] {
            assert_eq!(of(&GOOD.replace(tight, loose)), [fault]);
        }
    }
}
