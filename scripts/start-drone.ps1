# The guide's name for drone-up.ps1. Experimental: no PowerShell runs in our tests.
param([string]$ControlPlane = 'http://localhost:8090', [int]$Count = 1)
$ErrorActionPreference = 'Stop'
& (Join-Path $PSScriptRoot 'drone-up.ps1') -ControlPlane $ControlPlane -Count $Count
exit $LASTEXITCODE
