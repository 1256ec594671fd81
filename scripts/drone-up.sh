#!/usr/bin/env bash
# Start drones with Compose: scripts/drone-up.sh --control-plane URL --count N
# Other arguments go to Compose instead (for example: `down`, `logs -f`, `ps`).
source "$(dirname "$0")/lib.sh"
usage="usage: scripts/drone-up.sh [--control-plane URL] [--count N]"
export CONTROL_PLANE="${CONTROL_PLANE:-http://127.0.0.1:$port}" DRONE_COUNT="${DRONE_COUNT:-1}"
while [ $# -gt 0 ]; do
    case "$1" in
        --control-plane) CONTROL_PLANE="${2:?needs a URL. $usage}"; shift 2 ;;
        --control-plane=*) CONTROL_PLANE="${1#*=}"; shift ;;
        --count) DRONE_COUNT="${2:?needs a number. $usage}"; shift 2 ;;
        --count=*) DRONE_COUNT="${1#*=}"; shift ;;
        -h | --help) echo "$usage"; exit 0 ;;
        -*) echo "error: unknown option $1" >&2; echo "hint: $usage" >&2; exit 2 ;;
        *) drones "$@"; exit ;;
    esac
done
folders data/drone
# A token admits for a day; what it admitted stays. So each call brings a fresh one.
token=data/drone/join-token
if [ -n "${JOIN_TOKEN_FILE:-}" ]; then
    install -m 0640 "$JOIN_TOKEN_FILE" "$token"
elif inside version >/dev/null 2>&1; then
    said="$(umask 027 && inside worker token 2>&1 >"$token.new")" || {
        rm -f "$token.new"
        echo "$said" >&2
        exit 6
    }
    mv "$token.new" "$token"
elif [ ! -s "$token" ]; then
    echo "error: cannot get a join token: the control plane does not run in containers here" >&2
    echo "hint: make one there with \`holdfast worker token\` and name its file in JOIN_TOKEN_FILE" >&2
    exit 6
fi
if [ "$(id -u)" -eq 0 ]; then chown "${HOLDFAST_UID:-10001}:0" "$token"; fi
build_once
drones up -d
