"""PostgreSQL's own regression and isolation suites, against a whole cluster."""
