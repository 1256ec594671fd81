#!/usr/bin/env bash
# Start the control plane with Compose. Arguments replace `up -d` (for example: `down`, `logs -f`).
source "$(dirname "$0")/lib.sh"
mkdir -p profiles/government data/control-plane/{registry,aggregator,coordinator,reporter,gateway,trusted}
# The containers run as one unprivileged user of group 0; nobody else may look.
if [ "$(id -u)" -eq 0 ]; then chown -R "${HOLDFAST_UID:-10001}:0" data/control-plane; fi
chmod 2770 data/control-plane data/control-plane/* 2>/dev/null || true
[ $# -gt 0 ] || set -- up -d
compose -f docker-compose.control.yml "$@"
if [ "$1" = up ]; then
    echo "control plane: http://127.0.0.1:${HOLDFAST_PORT:-8090}; check it with scripts/control-plane-doctor.sh" >&2
fi
