#!/usr/bin/env bash
# The end-to-end tests on kind: makes a cluster and the images, installs the chart, runs the suite, removes the cluster.
# Needs Docker or Podman, kind, kubectl, Helm, Rust and a C compiler. KEEP=1 leaves the cluster, NAME names it.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/../.."
name=${NAME:-atoll}
target=${CARGO_TARGET_DIR:-target}
kubeconfig=$(realpath -m "$target/kind/$name.kubeconfig")

for program in kind kubectl helm cargo cc; do
  command -v "$program" > /dev/null || { echo "error: this machine lacks $program" >&2; exit 1; }
done

mkdir -p "$(dirname "$kubeconfig")"
[ "${KEEP-}" = 1 ] || trap 'kind delete cluster --name "$name"; rm -f "$kubeconfig"' EXIT
kind create cluster --name "$name" --config e2e/kind/kind.yaml --kubeconfig "$kubeconfig" --wait 3m

cargo xtask image --registry registry.local --tag dev
for image in operator sidecar trainer; do
  kind load image-archive "$target/images/$image.tar" --name "$name"
done

helm upgrade --install atoll helm/atoll --kubeconfig "$kubeconfig" --namespace atoll-system --create-namespace --wait --timeout 3m \
  --set image.registry=registry.local --set image.tag=dev \
  --set runtime.trainer.image=registry.local/atoll-trainer:dev --set runtime.sidecar.image=registry.local/atoll-sidecar:dev

cargo xtask full --suite e2e --kubeconfig "$kubeconfig"
