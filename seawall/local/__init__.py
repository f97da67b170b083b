"""The local cluster: the whole system as processes of one machine, below one directory."""
