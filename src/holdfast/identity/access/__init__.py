"""Who may enter after a restore: as it was at the backup, until the operator says that it holds."""
