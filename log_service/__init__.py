"""Log nodes: the WAL of every branch, replicated by Raft, served to computes and storage."""
