# Start drones with Docker Compose. Experimental: no PowerShell runs in our tests.
param([string]$ControlPlane = 'http://localhost:8090', [int]$Count = 1)
$ErrorActionPreference = 'Stop'
Set-Location (Join-Path $PSScriptRoot '..')
New-Item -ItemType Directory -Force -Path data/drone | Out-Null
$token = docker compose -f docker-compose.control.yml exec -T gateway holdfast worker token
if ($LASTEXITCODE -ne 0) { exit $LASTEXITCODE }
Set-Content -Path data/drone/join-token -Value $token -Encoding ascii
# Docker Desktop's containers run in a machine of their own: its name for this host leads back here.
$env:CONTROL_PLANE = $ControlPlane -replace '//(localhost|127\.0\.0\.1)', '//host.docker.internal'
$env:DRONE_NETWORK = 'bridge'
$env:DRONE_COUNT = $Count
docker compose -f docker-compose.drone.yml up -d
exit $LASTEXITCODE
