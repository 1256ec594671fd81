#!/usr/bin/env bash
# The operational checklist against a stack that is down, up or broken: what Compose needs, then
# `holdfast doctor` inside the gateway's container. Arguments go to the latter (--json).
source "$(dirname "$0")/lib.sh"
failed=0
say() { echo "$1 $2" >&2; }
fault() { failed=1; say ✗ "$1"; echo "    hint: $2" >&2; }
listens() { (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; }

say ✓ "compose: ${composer[*]}"
for file in docker-compose.control.yml docker-compose.drone.yml; do
    [ -f "$file" ] || fault "$file is missing" "it belongs beside the folder scripts"
done
if compgen -G "profiles/government/*.yaml" >/dev/null; then
    say ✓ "profiles: $(compgen -G "profiles/government/*.yaml" | wc -l) in profiles/government"
else
    fault "profiles: none in profiles/government" "\`holdfast profile init NAME\` writes one"
fi

if inside version >/dev/null 2>&1; then
    listens || fault "door: nothing answers at 127.0.0.1:$port" "look at: scripts/control-plane-up.sh ps"
    inside doctor "$@" || failed=1
elif [ -e data/control-plane/gateway/operator.token ]; then
    fault "gateway: its container does not run, and there is data of an earlier start" \
        "scripts/control-plane-up.sh starts it, scripts/control-plane-up.sh logs gateway says why it ended"
elif listens; then
    fault "door: another program has port $port" "stop it, or choose one with HOLDFAST_PORT"
elif [ "$failed" -eq 0 ]; then
    say · "gateway: not started yet; everything is here for scripts/control-plane-up.sh"
fi
exit "$failed"
