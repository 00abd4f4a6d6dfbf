# The trainer for NVIDIA GPUs: a dynamic program, because a static one cannot open the driver. The context is the root of the workspace:
#   docker build --file trainer-image/cuda.Dockerfile --tag atoll-trainer:cuda .
FROM nvidia/cuda:13.0.2-devel-ubuntu24.04 AS build
ENV CARGO_HOME=/cargo RUSTUP_HOME=/rustup PATH=/cargo/bin:/usr/local/cuda/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates curl gcc g++ \
 && curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal --default-toolchain 1.95
WORKDIR /atoll
COPY . .
# 80: the A100 and what came after it.
ENV CUDA_COMPUTE_CAP=80
RUN cargo build --locked --release --package atoll-trainer --features cuda --bin atoll-trainer

FROM nvidia/cuda:13.0.2-base-ubuntu24.04
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates libcublas-13-0 libcurand-13-0 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 65532 --home-dir /tmp --shell /usr/sbin/nologin atoll
COPY --from=build /atoll/target/release/atoll-trainer /atoll-trainer
ENV HOME=/tmp
USER 65532:65532
ENTRYPOINT ["/atoll-trainer"]
