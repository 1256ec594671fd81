#!/usr/bin/env bash
# Start drones with Compose: scripts/drone-up.sh --control-plane URL --count N
source "$(dirname "$0")/lib.sh"
export CONTROL_PLANE="${CONTROL_PLANE:-http://127.0.0.1:8090}" DRONE_COUNT="${DRONE_COUNT:-1}"
while [ $# -gt 0 ]; do
    case "$1" in
        --control-plane) CONTROL_PLANE="${2:?--control-plane needs a URL}"; shift 2 ;;
        --count) DRONE_COUNT="${2:?--count needs a number}"; shift 2 ;;
        -h | --help) echo "usage: scripts/drone-up.sh --control-plane URL --count N"; exit 0 ;;
        *) echo "error: unknown option $1" >&2; exit 2 ;;
    esac
done
mkdir -p data/drone
token="${JOIN_TOKEN_FILE:-data/drone/join-token}"
if [ ! -s "$token" ]; then
    (umask 077 && holdfast worker token --control-plane "$CONTROL_PLANE" \
        --data-dir "${HOLDFAST_DATA_DIR:-data/control-plane/gateway}" >"$token")
fi
if [ "$(id -u)" -eq 0 ]; then chown -R "${HOLDFAST_UID:-10001}:0" data/drone; fi
compose -f docker-compose.drone.yml up -d
