# The guide's name for control-plane-up.ps1. Experimental: no PowerShell runs in our tests.
$ErrorActionPreference = 'Stop'
& (Join-Path $PSScriptRoot 'control-plane-up.ps1')
exit $LASTEXITCODE
