"""The laptop stack: a private Valkey, the workers and the gateway, each its own process, supervised."""
