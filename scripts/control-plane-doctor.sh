#!/usr/bin/env bash
# The operational checklist against a stack that is down, up or broken: a call of `holdfast doctor`.
source "$(dirname "$0")/lib.sh"
holdfast doctor --data-dir "${HOLDFAST_DATA_DIR:-data/control-plane/gateway}" "$@"
