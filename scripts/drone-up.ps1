# Start drones with Docker Compose. Experimental: no PowerShell runs in our tests.
param([string]$ControlPlane = 'http://127.0.0.1:8090', [int]$Count = 1)
$ErrorActionPreference = 'Stop'
Set-Location (Join-Path $PSScriptRoot '..')
New-Item -ItemType Directory -Force -Path data/drone | Out-Null
if (-not (Test-Path data/drone/join-token)) {
    holdfast worker token --control-plane $ControlPlane --data-dir data/control-plane/gateway |
        Out-File -Encoding ascii data/drone/join-token
}
$env:CONTROL_PLANE = $ControlPlane
$env:DRONE_COUNT = $Count
docker compose -f docker-compose.drone.yml up -d
exit $LASTEXITCODE
