# shellcheck shell=bash
# etcd, API server, controller manager, scheduler and cluster DNS, as processes in the namespace of the control plane.

kubectl_of() { local c=$1; shift; netns "c$c" "$BIN/kubectl" --kubeconfig "$LAB/c$c/pki/admin.kubeconfig" "$@"; }

in_control_plane() { # CLUSTER PROGRAM ARGUMENTS...
  local c=$1 program=$2
  shift 2
  detached "$LAB/c$c/$program.pid" "$LAB/c$c/log/$program.log" nsenter --net="/run/netns/c$c" "$BIN/$program" "$@"
}

etcd() { # CLUSTER
  in_control_plane "$1" etcd --name "c$1" --data-dir "$LAB/c$1/etcd" \
    --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
    --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 \
    --initial-cluster "c$1=http://127.0.0.1:2380" --unsafe-no-fsync --log-level warn \
    --quota-backend-bytes 8589934592 --auto-compaction-mode periodic --auto-compaction-retention 5m
}

# The audit log is one file that is never rotated, written before each answer: tests count the writes in it.
api_server() { # CLUSTER
  local c=$1 ip pki=$LAB/c$1/pki
  ip=$(api_address "$c")
  in_control_plane "$c" kube-apiserver --etcd-servers=http://127.0.0.1:2379 --bind-address="$ip" --secure-port=6443 \
    --advertise-address="$ip" --client-ca-file="$pki/ca.crt" \
    --tls-cert-file="$pki/apiserver.crt" --tls-private-key-file="$pki/apiserver.key" \
    --kubelet-client-certificate="$pki/apiserver-kubelet-client.crt" --kubelet-client-key="$pki/apiserver-kubelet-client.key" \
    --kubelet-certificate-authority="$pki/ca.crt" --kubelet-preferred-address-types=InternalIP \
    --service-account-key-file="$pki/sa.pub" --service-account-signing-key-file="$pki/sa.key" \
    --service-account-issuer=https://kubernetes.default.svc.cluster.local \
    --service-account-jwks-uri=https://kubernetes.default.svc.cluster.local/openid/v1/jwks \
    --requestheader-client-ca-file="$pki/ca.crt" --requestheader-allowed-names=front-proxy-client \
    --requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group \
    --requestheader-extra-headers-prefix=X-Remote-Extra- \
    --proxy-client-cert-file="$pki/front-proxy-client.crt" --proxy-client-key-file="$pki/front-proxy-client.key" \
    --service-cluster-ip-range="$(service_net "$c").0/16" --authorization-mode=Node,RBAC \
    --enable-admission-plugins=NodeRestriction --allow-privileged=true --profiling=false \
    --audit-policy-file="$HERE/config/audit-policy.yaml" --audit-log-path="$LAB/c$c/log/audit.log" \
    --audit-log-mode=blocking --audit-log-maxsize=1000000
  within 120 "the API server of cluster $c; its log is $LAB/c$c/log/kube-apiserver.log" api_is_ready "$c"
}
api_is_ready() {
  alive "$LAB/c$1/kube-apiserver.pid" || fail "the API server of cluster $1 has ended; its log is $LAB/c$1/log/kube-apiserver.log"
  kubectl_of "$1" get --raw /readyz >/dev/null 2>&1
}

controllers() { # CLUSTER
  local c=$1 pki=$LAB/c$1/pki
  in_control_plane "$c" kube-controller-manager --kubeconfig="$pki/manager.kubeconfig" \
    --authentication-kubeconfig="$pki/manager.kubeconfig" --authorization-kubeconfig="$pki/manager.kubeconfig" \
    --bind-address=127.0.0.1 --leader-elect=false --root-ca-file="$pki/ca.crt" \
    --service-account-private-key-file="$pki/sa.key" --use-service-account-credentials=true \
    --cluster-signing-cert-file="$pki/ca.crt" --cluster-signing-key-file="$pki/ca.key" --allocate-node-cidrs=false \
    --service-cluster-ip-range="$(service_net "$c").0/16" --profiling=false \
    --node-monitor-period=1s --node-monitor-grace-period=12s
  in_control_plane "$c" kube-scheduler --kubeconfig="$pki/scheduler.kubeconfig" \
    --authentication-kubeconfig="$pki/scheduler.kubeconfig" --authorization-kubeconfig="$pki/scheduler.kubeconfig" \
    --bind-address=127.0.0.1 --leader-elect=false --profiling=false
}

cluster_dns() { # CLUSTER: on the control plane's host, as a Service whose endpoint is written by hand
  local c=$1 ip
  ip=$(api_address "$c")
  sed "s#@IP@#$ip#g; s#@KUBECONFIG@#$LAB/c$c/pki/admin.kubeconfig#g" "$HERE/config/Corefile" > "$LAB/c$c/Corefile"
  in_control_plane "$c" coredns -conf "$LAB/c$c/Corefile"
  sed "s#@IP@#$ip#g; s#@DNS@#$(service_net "$c").10#g" "$HERE/config/cluster-dns.yaml" | kubectl_of "$c" apply -f - >/dev/null
}

control_plane() { # CLUSTER
  etcd "$1"
  api_server "$1"
  controllers "$1"
  cluster_dns "$1"
  kubectl_of "$1" create clusterrolebinding kube-proxy --clusterrole=system:node-proxier --user=system:kube-proxy >/dev/null
}
