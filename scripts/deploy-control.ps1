# The guide's name for control-plane-up.ps1. Experimental: no PowerShell runs in our tests.
param([Parameter(ValueFromRemainingArguments)][string[]]$Rest)
$ErrorActionPreference = 'Stop'
& (Join-Path $PSScriptRoot 'control-plane-up.ps1') @Rest
exit $LASTEXITCODE
