# The operational checklist: a call of `holdfast doctor`. Experimental: no PowerShell runs in our tests.
param([Parameter(ValueFromRemainingArguments)][string[]]$Rest)
$ErrorActionPreference = 'Stop'
Set-Location (Join-Path $PSScriptRoot '..')
holdfast doctor --data-dir data/control-plane/gateway @Rest
exit $LASTEXITCODE
