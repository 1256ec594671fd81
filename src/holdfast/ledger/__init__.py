"""The append-only, provable log: one a tenant. See the README of this package."""
