"""The front door: the command line, and the clusters of one machine."""
