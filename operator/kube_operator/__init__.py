"""The Kubernetes operator: keeps PostgresCluster objects and what runs for them the same."""
