#!/usr/bin/env bash
# Real Kubernetes clusters on one Linux machine: no Docker, no registry. Needs root.
#
#   cluster.sh build            compiles Kubernetes, etcd, containerd and Helm into $LAB/bin
#   cluster.sh up C N           cluster C (1 to 9) with N nodes; with 0 nodes only its control plane
#   cluster.sh status           what is there, and what of it runs
#   cluster.sh kubeconfig C     path of the administrator's kubeconfig
#   cluster.sh in C CMD...      runs CMD in the network of C's control plane, with KUBECONFIG and PATH set
#   cluster.sh load TAR         takes an OCI image to every node, also to those that are started later
#   cluster.sh kill|start NODE  power loss and return of a node, such as c1-n2
#   cluster.sh kill-container NODE POD CONTAINER
#                               kills the process of one container, and nothing else
#   cluster.sh cut|heal HOST    takes down the link of a node or of a control plane, such as c1, and brings it back
#   cluster.sh shape HOST RATE  bounds what is sent to a host, such as 50mbit; none ends it
#   cluster.sh stop-api|start-api C
#                               kills the API server alone, and starts it again
#   cluster.sh down             removes everything: processes, namespaces, mounts, cgroups, state
#
# Every host is a network namespace on one bridge. The machine itself is 10.77.0.1 there, so that its programs reach the API servers
# and node ports, and pods reach what listens on it. Pods of one cluster reach nodes of another, by NAT, and never its pods.
# LAB is the folder of all state and programs.
set -euo pipefail
HERE=$(dirname "$(readlink -f "$0")")
LAB=$(realpath -m "${LAB:-${CARGO_TARGET_DIR:-$HERE/../../target}/cluster}")
BIN=$LAB/bin
export HERE LAB BIN

fail() { echo "error: $*" >&2; exit 1; }
usage() { sed -n '3,/^set -e/{/^#/s/^# \?//p}' "$0" >&2; exit 2; }
step() { echo "   $*"; }

for part in processes fabric build certificates control-plane node; do
  # shellcheck source=/dev/null
  . "$HERE/lib/$part.sh"
done

hosts_of() { [ ! -e "$LAB/$1/nodes" ] || cat "$LAB/$1/nodes"; }
clusters() { local d; for d in "$LAB"/c[1-9]; do [ ! -d "$d" ] || basename "$d"; done; }
is_cluster() { [[ $1 =~ ^[1-9]$ ]] || fail "$1 is not the number of a cluster, 1 to 9"; }
is_there() { is_cluster "$1"; [ -d "$LAB/c$1" ] || fail "there is no cluster $1: 'up $1 N' makes it"; }
is_node() { grep -qsx -- "$1" "$LAB/${1%%-*}/nodes" || fail "there is no node $1; there are: $(cat "$LAB"/c?/nodes 2>/dev/null | xargs)"; }
is_host() { [[ $1 =~ ^c[1-9](-n[0-9]+)?$ ]] || fail "$1 is not a host such as c1 or c1-n2"; is_recorded "$1" || fail "there is no host $1"; }

ready_nodes() { kubectl_of "$1" get nodes --no-headers 2>/dev/null | awk '$2 ~ /^Ready/' | wc -l; }

up() { # C N
  local c=$1 count=$2 n
  is_cluster "$c"
  [[ $count =~ ^[0-9]{1,2}$ ]] || fail "$count is not a number of nodes, 0 to 99"
  is_built || fail "the programs are not built: 'build' makes them"
  if [ -d "$LAB/c$c" ]; then
    ! alive "$LAB/c$c/kube-apiserver.pid" || fail "cluster $c is up already: 'down' removes it"
    fail "cluster $c is there in part, from an 'up' that failed or a stopped API server: 'down' removes it"
  fi
  can_have_nodes
  [ "$(cat /proc/sys/fs/inotify/max_user_instances)" -ge 4096 ] || sysctl -qw fs.inotify.max_user_instances=4096
  mkdir -p "$LAB/c$c/log"
  step "c$c: network"
  host "c$c" "$(api_address "$c")"
  : > "$LAB/c$c/nodes"
  for n in $(seq -f "c$c-n%g" "$count"); do
    echo "$n" >> "$LAB/c$c/nodes"
    host "$n" "$(node_address "$n")"
  done
  step "c$c: certificates"
  authority "$c"
  step "c$c: control plane"
  control_plane "$c"
  for n in $(hosts_of "c$c"); do step "$n: start"; node_start "$n"; done
  step "c$c: waiting for $count nodes"
  within 120 "the nodes of cluster $c to be Ready; their logs are $LAB/c$c-n*/log" nodes_are_ready "$c" "$count"
}
nodes_are_ready() { [ "$(ready_nodes "$1")" -ge "$2" ]; }

status() {
  local c name record n running=0 nodes=0 ready=0 all=0
  for c in $(clusters); do
    all=$((all + 1))
    for record in "$LAB/$c"/*.pid; do
      [ -e "$record" ] || continue
      name=$(basename "$record" .pid)
      if alive "$record"; then echo "$c $name runs, process $(id_of "$record")"; running=$((running + 1)); else echo "$c $name has ended"; fi
    done
    for n in $(hosts_of "$c"); do
      nodes=$((nodes + 1))
      if alive "$LAB/$n/pid"; then echo "$n runs, process $(id_of "$LAB/$n/pid")"; else echo "$n is off"; fi
    done
    ! alive "$LAB/$c/kube-apiserver.pid" || ready=$((ready + $(ready_nodes "${c#c}")))
  done
  echo "$all clusters, $running processes of control planes, $ready of $nodes nodes Ready, $(disk) MB in $LAB"
}
disk() { if [ -d "$LAB" ]; then du -sxm "$LAB" | cut -f1; else echo 0; fi; }

down() {
  local d
  for d in "$LAB"/c?-n*/; do [ ! -e "$d/pid" ] || node_kill "$(basename "$d")"; done
  for d in "$LAB"/c?/*.pid; do [ ! -e "$d" ] || end "$d"; done
  for d in "$LAB"/c?-n*/; do [ ! -d "$d" ] || cgroups_away "$(basename "$d")"; done
  fabric_away
  rm -rf --one-file-system "$LAB"/c[1-9] "$LAB"/c[1-9]-n*
}

# One command at a time changes what is there; the processes that it starts do not keep the lock.
alone() {
  mkdir -p "$LAB"
  exec 9> "$LAB/lock"
  flock --wait 300 9 || fail "another command is at work on $LAB"
}

[ $# -ge 1 ] || usage
mode=$1
shift
case $mode in build | up | load | kill | start | stop-api | start-api | down) alone ;; esac
case $mode/$# in
  build/0) build ;;
  up/2) up "$@" ;;
  status/0) status ;;
  kubeconfig/1) is_there "$1"; echo "$LAB/c$1/pki/admin.kubeconfig" ;;
  load/1) load "$1" ;;
  kill/1) is_node "$1"; alive "$LAB/$1/pid" || fail "$1 is off already"; node_kill "$1" ;;
  kill-container/3) is_node "$1"; alive "$LAB/$1/pid" || fail "$1 is off"; kill_container "$@" ;;
  start/1) is_node "$1"; ! alive "$LAB/$1/pid" || fail "$1 runs already"; node_start "$1" ;;
  cut/1) is_host "$1"; ip -n fabric link set "e-$1" down ;;
  heal/1) is_host "$1"; ip -n fabric link set "e-$1" up ;;
  shape/2) is_host "$1"; shape "$@" ;;
  stop-api/1) is_there "$1"; alive "$LAB/c$1/kube-apiserver.pid" || fail "the API server of cluster $1 is off already"; end "$LAB/c$1/kube-apiserver.pid" ;;
  start-api/1) is_there "$1"; ! alive "$LAB/c$1/kube-apiserver.pid" || fail "the API server of cluster $1 runs already"; api_server "$1" ;;
  down/0) down ;;
  in/*)
    [ $# -ge 2 ] || usage
    is_there "$1"
    c=$1
    shift
    KUBECONFIG=$LAB/c$c/pki/admin.kubeconfig PATH=$BIN:$PATH exec nsenter --net="/run/netns/c$c" "$@"
    ;;
  *) usage ;;
esac
