# One image for each service of the control plane and the router: SERVICE names the binary.
ARG BASE=debian:bookworm-slim
ARG RUST=rust:1.95-bookworm
# The image of the database server, or for another service than app-api any image.
ARG POSTGRES=postgres:16
# built: compiled in the next stage. prebuilt: compiled by `cargo xtask local-up` and taken from dist/.
ARG BINARIES=built

FROM ${RUST} AS built
ARG BINARIES
WORKDIR /src
COPY . .
# All three at once, so that three images share this stage. The cryptography of app-api wants a C compiler and the
# memory allocator of the router wants make; this image has both.
RUN mkdir /out && if [ "$BINARIES" = built ]; then \
      host=$(rustc -vV | sed -n 's/^host: //p') \
      && export RUSTFLAGS='-C target-feature=+crt-static' \
      && cargo build --locked --target "$host" --profile control --bins -p app-api -p orchestrator \
      && cargo build --locked --target "$host" --release --bins -p router \
      && cp "target/$host/control/app-api" "target/$host/control/orchestrator" \
            "target/$host/release/router" /out/; \
    fi

FROM ${BASE} AS prebuilt
ARG SERVICE
# The second source is written as a pattern because it may be absent, where binaries are built above.
COPY docker/make-secrets.sh dist/contro[l]/${SERVICE} /out/

FROM ${BINARIES} AS binaries

# app-api reads tenants' schemas by pg_dump, which must not be older than the server. Its libraries and their loader come along: the
# server's image may stand on another system. Without the program, an export says so, and all else works.
FROM ${POSTGRES} AS pg-dump
ARG SERVICE
USER root
RUN mkdir -p /out/lib; program=$(dirname "$(readlink -f "$(command -v postgres)")")/pg_dump; \
    if [ "$SERVICE" = app-api ] && [ -x "$program" ]; then \
      cp "$program" /out/ \
      && ldd "$program" | grep -o '/[^ ]*' | while read -r library; do cp -L "$library" /out/lib/; done \
      && loader=$(basename "$(ldd "$program" | grep -o '/[^ ]*/ld-[^ ]*' | head -n 1)") \
      && printf '#!/bin/sh\nexec /opt/pg_dump/lib/%s --library-path /opt/pg_dump/lib /opt/pg_dump/pg_dump "$@"\n' "$loader" \
           > /out/run \
      && chmod 755 /out/run /out/lib/*; \
    fi

FROM ${BASE}
ARG SERVICE
# Packages of Debian that the service calls. A base may have them already.
ARG PACKAGES=
RUN if [ -n "$PACKAGES" ] && ! dpkg --status $PACKAGES >/dev/null 2>&1; then \
      apt-get update && apt-get install --yes --no-install-recommends $PACKAGES && rm -rf /var/lib/apt/lists/*; \
    fi
# Folders that volumes are mounted on: a new volume takes over their owner.
RUN groupadd --gid 1000 cial \
    && useradd --uid 1000 --gid 1000 --no-log-init --no-create-home --home-dir /var/lib/cial cial \
    && install -d -o cial -g cial -m 0700 /var/lib/cial /run/cial/tenant-secrets /run/cial/tenant-databases \
       /run/cial/quota /run/cial/models /backups \
    && install -d -o cial -g cial -m 0755 /run/cial/sockets \
    && ln -s "/usr/local/bin/${SERVICE}" /usr/local/bin/service
COPY --from=pg-dump /out /opt/pg_dump
RUN if [ -e /opt/pg_dump/run ]; then mv /opt/pg_dump/run /usr/local/bin/pg_dump; fi
COPY docker/make-secrets.sh /usr/local/bin/make-secrets
COPY --from=binaries /out/${SERVICE} /usr/local/bin/${SERVICE}
LABEL cial.managed=1
USER 1000:1000
ENTRYPOINT ["service"]
