# The `millrace` program, every role of it, as a user that is not root.
#   docker build -t millrace:0.1.0 .
# Needs BuildKit, Docker's default builder since 23.0 (DOCKER_BUILDKIT=1 before that).

FROM rust:1.95.0-slim-bookworm AS build
# What compiling librdkafka, OpenSSL and zstd takes; libssl-dev is for sqlx's macros, which run in the compiler and are not
# linked into the program.
RUN apt-get update \
    && apt-get install -y --no-install-recommends cmake g++ libssl-dev make perl pkg-config \
    && rm -rf /var/lib/apt/lists/*
# The image's own toolchain: rust-toolchain.toml, with the formatter and the linter, is for development.
ENV RUSTUP_TOOLCHAIN=1.95.0 CARGO_TARGET_DIR=/target
WORKDIR /src
COPY . .
# The caches outlive a build, so that the next one compiles only what changed; the program is copied out of them.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/target \
    cargo build --release --locked -p cli --bin millrace \
    && install -D /target/release/millrace /out/millrace

FROM debian:bookworm-slim
# For TLS to Kafka, the registry, Postgres and webhooks; everything else is linked into the program.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin millrace
COPY --from=build /out/millrace /usr/local/bin/millrace
USER 10001:10001
WORKDIR /tmp
# In a container the loopback interface is reachable by nobody else.
ENV LISTEN=0.0.0.0:8080 NO_COLOR=1
EXPOSE 8080
HEALTHCHECK --interval=5s --timeout=5s --start-period=180s --retries=3 CMD ["millrace", "health"]
ENTRYPOINT ["millrace"]
CMD ["up"]
