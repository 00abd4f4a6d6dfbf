# The sidecar, as one static program from scratch. The context is the root of the workspace:
#   docker build --file trainer-image/sidecar.Dockerfile --tag atoll-sidecar .
# `cargo xtask image sidecar` makes the same without a container engine.
FROM rust:1.95-bookworm AS build
WORKDIR /atoll
COPY . .
ENV CARGO_ENCODED_RUSTFLAGS="-Ctarget-feature=+crt-static"
RUN cargo build --locked --release --target x86_64-unknown-linux-gnu --package atoll-sidecar --bin atoll-sidecar
RUN mkdir -p /image/tmp /image/etc/ssl/certs \
 && chmod 1777 /image/tmp \
 && printf 'root:x:0:0:root:/:/none\natoll:x:65532:65532:atoll:/tmp:/none\n' > /image/etc/passwd \
 && printf 'root:x:0:\natoll:x:65532:\n' > /image/etc/group \
 && printf 'hosts: files dns\n' > /image/etc/nsswitch.conf \
 && cp /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ \
 && cp target/x86_64-unknown-linux-gnu/release/atoll-sidecar /image/

FROM scratch
COPY --from=build /image /
ENV HOME=/tmp
USER 65532:65532
ENTRYPOINT ["/atoll-sidecar"]
