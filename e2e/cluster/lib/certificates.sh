# shellcheck shell=bash
# The authority of a cluster, what it signs, and kubeconfigs with the certificates in them.

certificate() { # NAME SUBJECT [SUBJECT-ALTERNATIVE-NAMES], in the current folder
  openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "$1.key" -subj "$2" -out "$1.csr" 2>/dev/null
  {
    echo "keyUsage=digitalSignature,keyEncipherment"
    echo "extendedKeyUsage=serverAuth,clientAuth"
    [ -z "${3-}" ] || echo "subjectAltName=$3"
  } > "$1.ext"
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 -extfile "$1.ext" -out "$1.crt" 2>/dev/null
  rm "$1.csr" "$1.ext"
}

kubeconfig() { # NAME CLUSTER
  cat > "$1.kubeconfig" <<Y
apiVersion: v1
kind: Config
current-context: c$2
clusters: [{name: c$2, cluster: {server: "https://$(api_address "$2"):6443", certificate-authority-data: $(base64 -w0 ca.crt)}}]
users: [{name: $1, user: {client-certificate-data: $(base64 -w0 "$1.crt"), client-key-data: $(base64 -w0 "$1.key")}}]
contexts: [{name: c$2, context: {cluster: c$2, user: $1}}]
Y
}

identity() { # NAME SUBJECT CLUSTER
  certificate "$1" "$2"
  kubeconfig "$1" "$3"
}

authority() { # CLUSTER
  local c=$1 names=localhost,kubernetes,kubernetes.default,kubernetes.default.svc,kubernetes.default.svc.cluster.local
  mkdir -p "$LAB/c$c/pki"
  (
    cd "$LAB/c$c/pki" || exit
    umask 077
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout ca.key -subj "/CN=c$c-ca" -days 3650 -out ca.crt 2>/dev/null
    openssl genrsa -out sa.key 2048 2>/dev/null
    openssl rsa -in sa.key -pubout -out sa.pub 2>/dev/null
    certificate apiserver /CN=kube-apiserver "IP:127.0.0.1,IP:$(api_address "$c"),IP:$(service_net "$c").1,DNS:${names//,/,DNS:}"
    certificate apiserver-kubelet-client /O=system:masters/CN=kube-apiserver-kubelet-client
    certificate front-proxy-client /CN=front-proxy-client
    identity admin /O=system:masters/CN=admin "$c"
    identity manager /CN=system:kube-controller-manager "$c"
    identity scheduler /CN=system:kube-scheduler "$c"
    identity kube-proxy /CN=system:kube-proxy "$c"
  )
}

node_certificate() { # NODE CLUSTER
  (
    cd "$LAB/c$2/pki" || exit
    umask 077
    [ -e "$1.kubeconfig" ] || { certificate "$1" "/O=system:nodes/CN=system:node:$1" "DNS:$1,IP:$(node_address "$1")"; kubeconfig "$1" "$2"; }
  )
}
