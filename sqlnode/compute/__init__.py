"""The agent of a compute: one stateless PostgreSQL, built from a cut, as the log orders it."""
