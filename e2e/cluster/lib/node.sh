# shellcheck shell=bash
# Nodes: containerd, kubelet and kube-proxy in namespaces and cgroups of their own, all below one process.

CGROUPS="cpu cpuacct cpuset memory devices freezer blkio pids systemd unified"

can_have_nodes() {
  local hierarchy
  for hierarchy in $CGROUPS; do
    [ -d "/sys/fs/cgroup/$hierarchy" ] || fail "no cgroup hierarchy $hierarchy: the lab knows hybrid cgroup v1 only; elsewhere use e2e/kind"
  done
}

cgroup_dir() { # HIERARCHY NODE: below the caller's own cgroup, so that what bounds the caller bounds the node
  local path key=$1
  case $1 in
    unified) key="" ;;
    systemd) key=name=systemd ;;
  esac
  path=$(awk -F: -v key="$key" '$2 == key {print $3}' /proc/self/cgroup)
  echo "/sys/fs/cgroup/$1${path%/}/$2"
}

# What a dead node leaves there would make the next kubelet's first minute slow.
cgroups_away() { # NODE
  [ ! -e "$LAB/$1/cgroups" ] || within 20 "the cgroups of $1 to be empty" cgroups_are_away "$LAB/$1/cgroups"
}
cgroups_are_away() { # LIST
  local d away=0
  while read -r d; do
    [ ! -d "$d" ] || find "$d" -depth -type d -exec rmdir {} + 2>/dev/null || away=1
  done < "$1"
  return "$away"
}
cgroups_of() { # NODE
  local g d f
  cgroups_away "$1"
  : > "$LAB/$1/cgroups"
  for g in $CGROUPS; do
    d=$(cgroup_dir "$g" "$1")
    echo "$d" >> "$LAB/$1/cgroups"
    mkdir -p "$d"
    [ "$g" != cpuset ] || for f in cpuset.cpus cpuset.mems; do cat "$(dirname "$d")/$f" > "$d/$f"; done
  done
}

routes_of() { # NODE CLUSTER: a host that was off has neither its bridge nor its rules
  local n=$1 c=$2 peer
  ip -n "$n" link del cni0 2>/dev/null || true
  netns "$n" nft flush ruleset
  # Without a route, the node's own connections to service addresses fail before they are translated.
  ip -n "$n" route replace "$(service_net "$c").0/16" dev eth0
  for peer in $(hosts_of "c$c"); do
    [ "$peer" = "$n" ] || ip -n "$n" route replace "$(pod_net "$c").$(index_of "$peer").0/24" via "$(node_address "$peer")"
  done
  ip -n "c$c" route replace "$(pod_net "$c").$(index_of "$n").0/24" via "$(node_address "$n")"
}

node_files() { # NODE CLUSTER
  local n=$1 c=$2 f
  mkdir -p "$LAB/$n"/{kubelet,containerd,cni,pods,containers,net.d,log,imported}
  # The places that these are mounted to: they must be there on the machine too.
  mkdir -p /var/lib/kubelet /var/lib/containerd /var/lib/cni /var/log/pods /var/log/containers /etc/cni/net.d /opt/cni/bin
  for f in kubelet.yaml kube-proxy.yaml cni.conflist; do
    sed -e "s#@NODE@#$n#g; s#@IP@#$(node_address "$n")#g; s#@PKI@#$LAB/c$c/pki#g; s#@RUN@#$LAB/$n#g" \
      -e "s#@DNS@#$(service_net "$c").10#g; s#@PODS@#$(pod_net "$c").0.0/16#g" \
      -e "s#@NODEPODS@#$(pod_net "$c").$(index_of "$n").0/24#g" "$HERE/config/$f" > "$LAB/$n/$f"
  done
  mv "$LAB/$n/cni.conflist" "$LAB/$n/net.d/10-pods.conflist"
  echo "nameserver $(service_net "$c").10" > "$LAB/$n/resolv.conf"
  [ -s "$LAB/$n/machine-id" ] || tr -d - < /proc/sys/kernel/random/uuid > "$LAB/$n/machine-id"
}

node_start() { # NODE
  local c
  c=$(cluster_of "$1")
  node_files "$1" "$c"
  node_certificate "$1" "$c"
  cgroups_of "$1"
  routes_of "$1" "$c"
  export NODE=$1 IP RUN=$LAB/$1 PKI=$LAB/c$c/pki CGROUPS
  IP=$(node_address "$1")
  # shellcheck disable=SC2016
  detached "$LAB/$1/pid" "$LAB/$1/log/init.log" bash -c '
    while read -r d; do echo $$ > "$d/cgroup.procs"; done < "$RUN/cgroups"
    exec nsenter --net="/run/netns/$NODE" unshare --mount --uts --cgroup --pid --fork --mount-proc --kill-child "$HERE/node-init.sh"'
}

# Process 1 of the node's process namespace: with it ends whatever is in there.
init_of() { pgrep -P "$(id_of "$LAB/$1/pid")"; }

node_kill() { # NODE
  local init
  if alive "$LAB/$1/pid"; then
    init=$(init_of "$1") && kill -9 "$init"
    within 20 "$1 to end" has_ended_or_end "$1"
  fi
}
# The parent outlives a node that is killed before it began.
has_ended_or_end() { ! alive "$LAB/$1/pid" || { [ -z "$(init_of "$1")" ] && end "$LAB/$1/pid"; }; }

load() { # TAR
  local n c name
  [ -f "$1" ] || fail "there is no file $1"
  name=$(basename "$1")
  mkdir -p "$LAB/images"
  cp "$1" "$LAB/images/.$name.new"
  mv "$LAB/images/.$name.new" "$LAB/images/$name"
  for c in $(clusters); do
    for n in $(hosts_of "$c"); do
      alive "$LAB/$n/pid" || continue
      nsenter --target "$(init_of "$n")" --mount --net --pid "$BIN/ctr" -n k8s.io images import --local "$LAB/images/$name" >/dev/null
      touch "$LAB/$n/imported/$name"
    done
  done
}

kill_container() { # NODE POD CONTAINER
  local inside id
  inside=(nsenter --target "$(init_of "$1")" --mount --net --pid "$BIN/ctr" -n k8s.io)
  for id in $("${inside[@]}" containers list -q "labels.\"io.kubernetes.pod.name\"==$2,labels.\"io.kubernetes.container.name\"==$3"); do
    # One that has ended is still listed.
    if "${inside[@]}" tasks kill --signal SIGKILL "$id" 2>/dev/null; then return; fi
  done
  fail "no container $3 of pod $2 runs on $1"
}
