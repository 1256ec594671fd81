# Start the control plane with Docker Compose and wait until it is well. Arguments replace `up`.
# Experimental: no PowerShell runs in our tests; docs/operating/containers.md says what Windows lacks.
param([Parameter(ValueFromRemainingArguments)][string[]]$Rest)
$ErrorActionPreference = 'Stop'
Set-Location (Join-Path $PSScriptRoot '..')
if ($Rest) {
    docker compose -f docker-compose.control.yml @Rest
    exit $LASTEXITCODE
}
foreach ($role in 'identity', 'registry', 'aggregator', 'coordinator', 'reporter', 'ledger', 'gateway', 'trusted') {
    New-Item -ItemType Directory -Force -Path "data/control-plane/$role" | Out-Null
}
docker compose -f docker-compose.control.yml up -d --wait --wait-timeout 120
exit $LASTEXITCODE
