# The tenant image: five services, two users, one door.
ARG BASE=debian:bookworm-slim
ARG RUST=rust:1.95-bookworm
# built: compiled in the next stage. prebuilt: compiled by `cargo xtask images` and taken from dist/.
ARG BINARIES=built

FROM ${RUST} AS built
ARG BINARIES
WORKDIR /src
COPY . .
# The cryptography of core wants a C compiler, which this image has, and on x86_64 and aarch64 nothing more.
# A builder that cannot skip stages runs this one for prebuilt binaries too: then it does nothing.
RUN mkdir /out && if [ "$BINARIES" = built ]; then \
      host=$(rustc -vV | sed -n 's/^host: //p') \
      && RUSTFLAGS='-C target-feature=+crt-static' cargo build --locked --target "$host" --release --bins \
           -p supervisor -p edge -p tenant-core -p tenant-platform \
      && cd "target/$host/release" && cp supervisor edge core platform /out/; \
    fi

FROM ${BASE} AS prebuilt
# The second source is written as a pattern because it may be absent, where binaries are built above.
COPY docker/tenant.json dist/tenan[t]/* /out/

FROM ${BINARIES} AS binaries

# What the tenant image stands on: users and folders, and nothing that runs.
FROM ${BASE} AS base
# `agent` must not read what is the core's: its folders are closed before anything is put into them.
RUN groupadd --gid 1000 cial \
    && groupadd --gid 1001 agent \
    && useradd --uid 1000 --gid 1000 --no-log-init --no-create-home --home-dir /var/lib/cial --shell /bin/bash cial \
    && useradd --uid 1001 --gid 1001 --no-log-init --no-create-home --home-dir /home/agent --shell /bin/bash agent \
    && install -d -o cial -g cial -m 0700 /opt/cial-core /var/lib/cial /run/cial/core \
    # The core's too: `agent` meets a socket there, and must not be able to put another in its place.
    && install -d -o cial -g agent -m 0750 /run/cial/agent \
    && install -d -o agent -g agent -m 0755 /opt/cial-platform /home/agent \
    && install -d -o agent -g agent -m 0750 /home/agent/files \
    # A file system that is mounted there takes over the mode.
    && install -d -o agent -g agent -m 0700 /tmp \
    # Programs such as su and mount would run as another user. `no_new_privs` stops them at run time; here they lose
    # the bits, so that no other way of starting a process in the container brings them back.
    && find / -xdev -type f -perm /6000 -exec chmod a-s {} +

FROM base
COPY --from=binaries --chown=root:root /out/supervisor /usr/local/bin/supervisor
COPY --from=binaries --chown=cial:cial /out/edge /out/core /opt/cial-core/
COPY --from=binaries --chown=agent:agent /out/platform /opt/cial-platform/platform
LABEL cial.managed=1
EXPOSE 8080
ENTRYPOINT ["supervisor"]
