"""The gateway: one address for clients, whoever is the primary."""
