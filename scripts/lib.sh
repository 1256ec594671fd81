# Shared by the scripts beside it: which Compose there is, and where the repository is.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

compose() {
    if docker compose version >/dev/null 2>&1 && docker info >/dev/null 2>&1; then
        docker compose "$@"
    elif command -v podman-compose >/dev/null; then
        podman-compose "$@"
    elif [ -x .venv/bin/podman-compose ]; then
        .venv/bin/podman-compose "$@"
    else
        echo "error: neither docker compose nor podman-compose is here" >&2
        echo "hint: without containers, \`make run\` or \`holdfast up\` needs nothing else" >&2
        exit 6
    fi
}

holdfast() {
    if [ -x .venv/bin/holdfast ]; then .venv/bin/holdfast "$@"; else command holdfast "$@"; fi
}
