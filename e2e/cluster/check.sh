#!/usr/bin/env bash
# Tries in cluster 1, which must have three nodes, what the tests rely on, and prints a figure for each. Ends with how many held.
set -euo pipefail
HERE=$(dirname "$(readlink -f "$0")")
LAB=$(realpath -m "${LAB:-${CARGO_TARGET_DIR:-$HERE/../../target}/cluster}")
export LAB PATH=$LAB/bin:$PATH
lab=$HERE/cluster.sh
KUBECONFIG=$("$lab" kubeconfig 1)
export KUBECONFIG
PROBE=registry.local/atoll-probe:dev
held=0 failed=0 began=0

now() { echo $((${EPOCHREALTIME/./} / 1000)); }
start() { began=$(now); }
check() { # NAME CONDITION...
  local name=$1
  shift
  if "$@" > /dev/null; then held=$((held + 1)); echo "$name: holds"; else failed=$((failed + 1)); echo "$name: FAILS"; fi
}
until_true() { # NAME SECONDS CONDITION...: how long it takes since start
  local name=$1 limit=$2
  shift 2
  until "$@" > /dev/null 2>&1; do
    if [ $(($(now) - began)) -gt $((limit * 1000)) ]; then failed=$((failed + 1)); echo "$name: FAILS, not within $limit s"; return 0; fi
    sleep 0.1
  done
  held=$((held + 1))
  echo "$name: $(($(now) - began)) ms"
}
is() { [ "$(kubectl "${@:2}" 2>/dev/null)" = "$1" ]; }
refused() { ! "$@" 2>/dev/null; }
refused_for() { # WORDS COMMAND...
  local said
  ! said=$("${@:2}" 2>&1) && grep -q "$1" <<< "$said"
}
evict() { echo "{\"apiVersion\":\"policy/v1\",\"kind\":\"Eviction\",\"metadata\":{\"name\":\"$1\"}}" |
  kubectl create --raw "/api/v1/namespaces/check/pods/$1/eviction" -f -; }
ready() { is "$2" get node "$1" -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}'; }
runs_again() { # POD: another one with its index runs
  local pods
  pods=$(kubectl --namespace check get pods -l batch.kubernetes.io/job-completion-index=0 --field-selector=status.phase=Running -o name)
  [ -n "$pods" ] && ! grep -q "$1" <<< "$pods"
}
replicas() { is "$1" --namespace check get deployment web -o 'jsonpath={.status.readyReplicas}'; }

start
"$lab" load "$LAB/images/probe.tar"
echo "an image on three nodes: $(($(now) - began)) ms"
kubectl delete namespace check --ignore-not-found > /dev/null
kubectl create namespace check > /dev/null
kubectl label namespace check pod-security.kubernetes.io/enforce=restricted > /dev/null

start
kubectl apply --namespace check -f "$HERE/config/check.yaml" > /dev/null
until_true "an Indexed Job with native sidecars runs on three nodes" 30 is 3 --namespace check get job ring -o 'jsonpath={.status.ready}'
check "its pods are on different nodes" is "c1-n1 c1-n2 c1-n3" --namespace check get pods -l app=ring --sort-by=.spec.nodeName -o 'jsonpath={.items[*].spec.nodeName}'
pod=$(kubectl --namespace check get pods -l batch.kubernetes.io/job-completion-index=0 -o 'jsonpath={.items[0].metadata.name}')
check "a pod reaches another by its name" kubectl --namespace check exec "$pod" -c trainer -- /atoll-probe dial ring-1.ring:7000
start
kubectl --namespace check delete pod "$pod" --wait=false > /dev/null
until_true "a deleted pod of the Job runs again" 30 runs_again "$pod"
until_true "the Job completes" 60 kubectl --namespace check wait --for=condition=Complete job/ring --timeout=60s
start
until_true "too much memory is an OOM kill" 20 is OOMKilled --namespace check get pod oom -o 'jsonpath={.status.containerStatuses[0].state.terminated.reason}'
check "PodSecurity refuses an unrestricted pod" refused_for "violates PodSecurity" kubectl --namespace check run bad --image="$PROBE"
check "ResourceQuota refuses a second ConfigMap" refused_for "exceeded quota" kubectl --namespace check create configmap second
check "an eviction against a PodDisruptionBudget is refused" refused_for "disruption budget" evict held
kubectl --namespace check create serviceaccount probe > /dev/null
kubectl create clusterrolebinding check --clusterrole=system:service-account-issuer-discovery --serviceaccount=check:probe \
  --dry-run=client -o yaml | kubectl apply -f - > /dev/null
check "a ServiceAccount reads the issuer's keys" kubectl --as system:serviceaccount:check:probe get --raw /openid/v1/jwks
check "the audit log has the write of this check" grep -q '"verb":"create".*"resource":"serviceaccounts","namespace":"check","name":"probe"' "$LAB/c1/log/audit.log"

start
"$lab" stop-api 1
check "the API server is away" refused kubectl get --raw /readyz
"$lab" start-api 1
until_true "the API server is back" 30 kubectl get --raw /readyz

start
"$lab" cut c1-n2
until_true "a node that is cut off is NotReady" 40 ready c1-n2 Unknown
start
"$lab" heal c1-n2
until_true "it is Ready again" 40 ready c1-n2 True
until_true "all replicas run" 60 replicas 3
start
node=$(kubectl --namespace check get pods -l app=web -o 'jsonpath={.items[0].spec.nodeName}')
"$lab" kill "$node"
until_true "a node without power is NotReady" 40 ready "$node" Unknown
until_true "its pods run elsewhere" 60 replicas 3
start
"$lab" start "$node"
until_true "a node that is started again is Ready" 40 ready "$node" True
kubectl delete namespace check --wait=false > /dev/null
kubectl delete clusterrolebinding check > /dev/null
echo "check: $held hold, $failed fail"
[ "$failed" = 0 ]
