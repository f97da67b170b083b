"""A whole Raft group in one thread, with every fault we can think of, replayed from one seed."""
