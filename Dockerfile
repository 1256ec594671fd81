# One image for every role and for drones. Runs as any non-root user, on a read-only root:
# everything it writes is under /var/lib/holdfast (a volume) and /tmp.
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
COPY requirements/server.txt requirements/
RUN python3 -m venv /opt/holdfast \
 && /opt/holdfast/bin/pip install --no-cache-dir --disable-pip-version-check \
      --require-hashes --only-binary :all: -r requirements/server.txt
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN /opt/holdfast/bin/pip install --no-cache-dir --disable-pip-version-check \
      --no-deps --no-build-isolation . \
 && /opt/holdfast/bin/python -m compileall -q /opt/holdfast/lib

FROM ${BASE}
LABEL org.opencontainers.image.title="Holdfast" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/holdfast /opt/holdfast
# Group 0 owns what is written, so that a platform may pick any user id (OpenShift does).
RUN install -d -m 2770 -o 10001 -g 0 /var/lib/holdfast /var/lib/holdfast/trusted
ENV PATH=/opt/holdfast/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    HOLDFAST_DATA_DIR=/var/lib/holdfast \
    HOLDFAST_LOG_FORMAT=json
USER 10001:0
WORKDIR /var/lib/holdfast
VOLUME /var/lib/holdfast
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 CMD ["holdfast", "health"]
ENTRYPOINT ["holdfast"]
CMD ["up"]
