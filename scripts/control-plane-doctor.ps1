# The operational checklist: `holdfast doctor` inside the gateway's container.
# Experimental: no PowerShell runs in our tests.
param([Parameter(ValueFromRemainingArguments)][string[]]$Rest)
$ErrorActionPreference = 'Stop'
Set-Location (Join-Path $PSScriptRoot '..')
docker compose -f docker-compose.control.yml exec -T gateway holdfast doctor @Rest
exit $LASTEXITCODE
