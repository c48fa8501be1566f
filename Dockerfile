# One image for every process of the product; docker-compose.yml says which process a container is.

FROM python:3.11.14-slim-bookworm AS build
# requirements-cluster.lock adds the run launchers for many machines (docs/scaling.md).
ARG LOCK=requirements.lock
RUN python3 -m venv /opt/venv
COPY deploy/build.lock ${LOCK} /build/
# Wheels only, hence no compiler; the lock is complete, hence no resolving, and `pip check` says so.
RUN /opt/venv/bin/pip install --no-cache-dir --no-deps --require-hashes --only-binary :all: -r "/build/${LOCK}" \
    && /opt/venv/bin/pip check
COPY pyproject.toml README.md LICENSE /build/product/
COPY cryptotrace_dagster /build/product/cryptotrace_dagster
RUN python3 -m venv /opt/builder \
    && /opt/builder/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r /build/build.lock \
    && /opt/builder/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /build/wheel /build/product \
    && /opt/venv/bin/pip install --no-cache-dir --no-deps /build/wheel/*.whl \
    && /opt/venv/bin/pip uninstall --yes pip setuptools

FROM python:3.11.14-slim-bookworm
LABEL org.opencontainers.image.title="cryptotrace" \
      org.opencontainers.image.licenses="MIT"
# The volumes that Docker mounts here take over this owner.
RUN groupadd --gid 10001 cryptotrace \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin cryptotrace \
    && install -d -o 10001 -g 10001 -m 0750 /data /config /secrets \
    && install -d -o 10001 -g 10001 /scrape \
    && install -d /opt/dagster
COPY --from=build /opt/venv /opt/venv
COPY deploy/dagster.yaml deploy/workspace.yaml /opt/dagster/
ENV PATH=/opt/venv/bin:$PATH \
    DAGSTER_HOME=/opt/dagster \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp
WORKDIR /tmp
USER 10001:10001
CMD ["cryptotrace", "--help"]
