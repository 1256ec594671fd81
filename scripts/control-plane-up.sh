#!/usr/bin/env bash
# Start the control plane with Compose and wait until it is well. Arguments replace `up -d`
# (for example: `down`, `logs -f gateway`, `ps`).
source "$(dirname "$0")/lib.sh"
if [ $# -gt 0 ]; then
    control "$@"
    exit
fi
mkdir -p profiles/government
folders data/control-plane data/control-plane/{identity,registry,aggregator,coordinator,reporter,ledger,gateway,trusted}
build_once
control up -d
echo "waiting for http://127.0.0.1:$port ..." >&2
wait_seconds="${WAIT_SECONDS:-120}"
deadline=$((SECONDS + wait_seconds))
until [[ "$(health)" == *'{"status":"ok"'* ]]; do
    if [ "$SECONDS" -ge "$deadline" ]; then
        echo "error: the control plane is not well after $wait_seconds seconds" >&2
        inside health >&2 || true
        echo "hint: scripts/control-plane-up.sh logs" >&2
        exit 6
    fi
    sleep 0.5
done
echo "control plane: http://127.0.0.1:$port; check it with scripts/control-plane-doctor.sh" >&2
