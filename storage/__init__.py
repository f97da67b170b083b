"""Storage nodes: versioned pages made of the log by PostgreSQL's own redo."""
