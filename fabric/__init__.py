"""The ground every component stands on: vocabulary types, RPC, TLS, settings, logs, metrics."""
