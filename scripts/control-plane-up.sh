#!/usr/bin/env bash
# Start the control plane with Compose and wait until it is well. Arguments replace `up -d`
# (for example: `down`, `logs -f gateway`, `ps`).
source "$(dirname "$0")/lib.sh"
if [ $# -gt 0 ]; then
    control "$@"
    exit
fi
mkdir -p profiles/government
folders data/control-plane data/control-plane/{registry,aggregator,coordinator,reporter,gateway,trusted}
build_once
control up -d
url="http://127.0.0.1:${HOLDFAST_PORT:-8090}"
echo "waiting for $url ..." >&2
deadline=$((SECONDS + ${WAIT_SECONDS:-90}))
until inside health --json 2>/dev/null | grep -q '"status": "ok"'; do
    if [ "$SECONDS" -ge "$deadline" ]; then
        echo "error: the control plane is not well after ${WAIT_SECONDS:-90} seconds" >&2
        inside health >&2 || true
        echo "hint: scripts/control-plane-up.sh logs" >&2
        exit 6
    fi
    sleep 1
done
echo "control plane: $url; check it with scripts/control-plane-doctor.sh" >&2
