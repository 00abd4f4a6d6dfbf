# shellcheck shell=bash
# The programs of the lab, from released Go modules. One file holds all of Kubernetes, so that it is linked once.

KUBERNETES=v1.36.3
CONTAINERD=v2.1.9
HELM=v4.3.1
COMPONENTS="kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl etcd coredns"
PLUGINS="bridge host-local loopback portmap"

# The versions have to be set, or the servers call themselves v0.0.0 and clients refuse to talk to them.
version_flags() {
  local p=k8s.io/component-base/version minor=${KUBERNETES#v1.}
  echo "-X $p.gitVersion=$KUBERNETES -X $p.gitMajor=1 -X $p.gitMinor=${minor%.*} -X k8s.io/client-go/pkg/version.gitVersion=$KUBERNETES"
}

# A hash of all that the programs are made of.
build_inputs() { (cd "$HERE" && go version && sha256sum lib/build.sh kube/* tools/*) | sha256sum | cut -d' ' -f1; }
is_built() { [ -s "$LAB/build.stamp" ]; }

build() {
  local inputs program
  inputs=$(build_inputs)
  if [ "$(cat "$LAB/build.stamp" 2>/dev/null)" = "$inputs" ]; then step "unchanged"; return; fi
  rm -f "$LAB/build.stamp"
  mkdir -p "$BIN" "$LAB/cni" "$LAB/images"
  export CGO_ENABLED=0
  step "containerd and network plugins (two minutes when nothing is cached)"
  (cd "$HERE/tools" && go build -trimpath -ldflags "-s -w -X github.com/containerd/containerd/v2/version.Version=$CONTAINERD" -o "$BIN/" tool)
  step "Kubernetes, etcd and CoreDNS (seven minutes when nothing is cached)"
  (cd "$HERE/kube" && go build -trimpath -ldflags "-s -w $(version_flags)" -o "$BIN/" .)
  for program in $COMPONENTS; do ln -sf kube "$BIN/$program"; done
  for program in $PLUGINS; do ln -f "$BIN/$program" "$LAB/cni/$program"; done
  step "Helm (two minutes when nothing is cached)"
  GOBIN=$BIN go install -trimpath -ldflags "-s -w" "helm.sh/helm/v4/cmd/helm@$HELM"
  echo "$inputs" > "$LAB/build.stamp"
}
