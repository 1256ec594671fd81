# shellcheck shell=bash
# Shared by the scripts beside it: where the repository is, which Compose there is, and what belongs
# to whom. COMPOSE_PROJECT_NAME (holdfast) names the control plane; its drones are NAME-drone.
# COMPOSE says which Compose to take where there are several: "docker compose", podman-compose.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

port="${HOLDFAST_PORT:-8090}"
project="${COMPOSE_PROJECT_NAME:-holdfast}"

if [ -n "${COMPOSE:-}" ]; then
    read -ra composer <<<"$COMPOSE"
elif docker compose version >/dev/null 2>&1 && docker info >/dev/null 2>&1; then
    composer=(docker compose)
elif command -v podman-compose >/dev/null; then
    composer=(podman-compose)
elif [ -x .venv/bin/podman-compose ]; then
    composer=(.venv/bin/podman-compose)
else
    echo "error: neither docker compose nor podman-compose works here" >&2
    echo "hint: without containers, \`make run\` or \`holdfast up\` needs nothing else" >&2
    exit 6
fi

case "${composer[0]##*/}" in podman*) engine=podman ;; *) engine=docker ;; esac
# Docker does not map users: without root, what the containers write shall be the caller's.
if [ "$engine" = docker ] && [ "$(id -u)" -ne 0 ]; then
    export HOLDFAST_UID="${HOLDFAST_UID:-$(id -u)}"
fi
# The image as the Compose files name it.
image="${HOLDFAST_IMAGE:-$(sed -n 's/.*HOLDFAST_IMAGE:-\([^}]*\)}.*/\1/p' docker-compose.drone.yml)}"

control() { "${composer[@]}" -p "$project" -f docker-compose.control.yml "$@"; }
drones() { "${composer[@]}" -p "$project-drone" -f docker-compose.drone.yml "$@"; }

# Compose would build it once per service, podman-compose all at the same time.
build_once() {
    if ! "$engine" image inspect "$image" >/dev/null 2>&1; then drones build; fi
}

# `holdfast ARGUMENTS` inside the gateway's container, where the operator token is.
inside() { control exec -T gateway holdfast "$@"; }

# The gateway's health through the published port: bash can ask, so no curl is needed.
health() {
    (
        exec 3<>"/dev/tcp/127.0.0.1/$port"
        printf 'GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' >&3
        timeout 5 cat <&3
    ) 2>/dev/null
}

# Folders of one unprivileged user of group 0, as which the containers run; nobody else may look.
folders() {
    mkdir -p "$@"
    if [ "$(id -u)" -eq 0 ]; then chown "${HOLDFAST_UID:-10001}:0" "$@"; fi
    chmod 2770 "$@"
}
