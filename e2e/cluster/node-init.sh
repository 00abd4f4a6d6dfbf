#!/usr/bin/env bash
# Process 1 of a node: mounts what it sees, then keeps containerd, kube-proxy and kubelet running.
set -e
hostname "$NODE"
# Private until everything stands: a shared unmount would empty the machine's own cgroup tree.
mount --make-rprivate /
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
for c in $CGROUPS; do
  mkdir "/sys/fs/cgroup/$c"
  case $c in
    systemd) mount -t cgroup -o none,name=systemd cgroup "/sys/fs/cgroup/$c" ;;
    unified) mount -t cgroup2 cgroup2 "/sys/fs/cgroup/$c" ;;
    *) mount -t cgroup -o "$c" cgroup "/sys/fs/cgroup/$c" ;;
  esac
done
mount -t tmpfs tmpfs /run
for p in kubelet:/var/lib/kubelet containerd:/var/lib/containerd cni:/var/lib/cni pods:/var/log/pods containers:/var/log/containers net.d:/etc/cni/net.d; do
  mount --bind "$RUN/${p%%:*}" "${p##*:}"
done
mount --bind "$LAB/cni" /opt/cni/bin
mount --bind "$RUN/machine-id" /etc/machine-id
mount --make-rshared /
sysctl -qw net.ipv4.ip_forward=1
export PATH=$BIN:$PATH

keep() { # NAME ARGUMENTS...
  local name=$1
  while :; do
    "$@" >> "$RUN/log/$name.log" 2>&1 || true
    echo "$(date +%T) $name ended, starting it again"
    sleep 1
  done
}

keep containerd --config "$HERE/config/containerd.toml" &
until ctr version >/dev/null 2>&1; do sleep 0.1; done
for image in "$LAB"/images/*.tar; do
  mark=$RUN/imported/$(basename "$image")
  [ "$mark" -nt "$image" ] || { ctr -n k8s.io images import --local "$image" >> "$RUN/log/images.log" 2>&1 && touch "$mark"; }
done
keep kube-proxy --config="$RUN/kube-proxy.yaml" &
keep kubelet --config="$RUN/kubelet.yaml" --kubeconfig="$PKI/$NODE.kubeconfig" --hostname-override="$NODE" --node-ip="$IP" \
  --root-dir=/var/lib/kubelet &
while :; do wait -n || true; sleep 1; done
