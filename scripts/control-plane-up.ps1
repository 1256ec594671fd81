# Start the control plane with Docker Compose. Experimental: no PowerShell runs in our tests.
$ErrorActionPreference = 'Stop'
Set-Location (Join-Path $PSScriptRoot '..')
foreach ($role in 'registry', 'aggregator', 'coordinator', 'reporter', 'gateway', 'trusted') {
    New-Item -ItemType Directory -Force -Path "data/control-plane/$role" | Out-Null
}
docker compose -f docker-compose.control.yml up -d
exit $LASTEXITCODE
