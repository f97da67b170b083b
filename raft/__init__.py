"""The consensus core: Raft as a pure state machine, without I/O, clock or randomness of its own."""
