"""Named objects that are written once, on a directory, in memory or in a cloud."""
