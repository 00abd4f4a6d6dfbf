# shellcheck shell=bash
# Hosts: network namespaces on one bridge, which is in a namespace of its own.

MACHINE_ADDRESS=10.77.0.1
MACHINE_LINK=atoll-lab

netns() { nsenter --net="/run/netns/$1" "${@:2}"; }
pod_net() { echo "10.$((100 + $1))"; }
service_net() { echo "10.$((200 + $1)).0"; }
api_address() { echo "10.77.$1.2"; }
cluster_of() { local c=${1#c}; echo "${c%%-*}"; }
index_of() { echo "${1##*-n}"; }
node_address() { echo "10.77.$(cluster_of "$1").$((100 + $(index_of "$1")))"; }

namespace() { # NAME: recorded before it is there, so that whatever fails after it, it is found
  mountpoint -q /run/netns || touch "$LAB/mounted"
  [ ! -e "/run/netns/$1" ] || fail "the network namespace $1 is there already and not of this lab: another lab on this machine?"
  echo "$1" >> "$LAB/namespaces"
  ip netns add "$1"
  ip -n "$1" link set lo up
}

fabric() {
  ! is_recorded fabric || return 0
  namespace fabric
  ip -n fabric link add br0 type bridge
  ip -n fabric link set br0 up
  netns fabric sysctl -qw net.bridge.bridge-nf-call-iptables=0 2>/dev/null || true
  ip link add "$MACHINE_LINK" type veth peer name e-machine netns fabric
  ip -n fabric link set e-machine master br0 up
  ip addr add "$MACHINE_ADDRESS/16" dev "$MACHINE_LINK"
  ip link set "$MACHINE_LINK" up
}

fabric_away() {
  local name
  ! ip link show "$MACHINE_LINK" >/dev/null 2>&1 || ! is_recorded fabric || ip link del "$MACHINE_LINK"
  [ ! -e "$LAB/namespaces" ] || while read -r name; do [ ! -e "/run/netns/$name" ] || ip netns del "$name"; done < "$LAB/namespaces"
  # The first namespace made a mount of the folder.
  [ ! -e "$LAB/mounted" ] || [ -n "$(ls /run/netns)" ] || umount /run/netns
  rm -f "$LAB/namespaces" "$LAB/mounted"
}
is_recorded() { grep -qsx -- "$1" "$LAB/namespaces"; }

host() { # NAME ADDRESS
  fabric
  namespace "$1"
  ip link add "e-$1" netns fabric type veth peer name eth0 netns "$1"
  ip -n fabric link set "e-$1" master br0 up
  ip -n "$1" addr add "$2/16" dev eth0
  ip -n "$1" link set eth0 up
}

shape() { # HOST RATE
  tc -n fabric qdisc del dev "e-$1" root 2>/dev/null || true
  [ "$2" = none ] || tc -n fabric qdisc add dev "e-$1" root tbf rate "$2" burst 64kb latency 200ms
}
