# One image for every role and for drones. It runs as any non-root user, on a read-only root:
# what it writes is under /var/lib/holdfast (a volume) and /tmp. Any Debian-like base with Python
# 3.11 or newer serves: --build-arg BASE=…
ARG BASE=docker.io/library/python:3.11.13-slim-bookworm

# Dependencies are a layer of their own: a new release of Holdfast moves one megabyte.
FROM ${BASE} AS dependencies
COPY requirements/server.txt /requirements.txt
RUN python3 -m venv /opt/holdfast \
 && /opt/holdfast/bin/pip install --no-cache-dir --disable-pip-version-check \
      --require-hashes --only-binary :all: -r /requirements.txt

FROM dependencies AS wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN /opt/holdfast/bin/pip wheel --no-cache-dir --disable-pip-version-check \
      --no-deps --no-build-isolation --wheel-dir /wheel .

FROM dependencies
LABEL org.opencontainers.image.title="Holdfast" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=wheel /wheel /wheel
# Group 0 owns what is written, so that a platform may pick any user id (OpenShift does).
RUN /opt/holdfast/bin/pip install --no-cache-dir --disable-pip-version-check \
      --no-index --no-deps /wheel/holdfast-*.whl \
 && install -d -m 2770 -o 10001 -g 0 /var/lib/holdfast /var/lib/holdfast-trusted
ENV PATH=/opt/holdfast/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOLDFAST_DATA_DIR=/var/lib/holdfast \
    HOLDFAST_LOG_FORMAT=json
USER 10001:0
WORKDIR /var/lib/holdfast
VOLUME /var/lib/holdfast
HEALTHCHECK --interval=15s --timeout=30s --start-period=60s --retries=3 CMD ["holdfast", "health"]
ENTRYPOINT ["holdfast"]
CMD ["up"]
