"""Systems that a benchmark can load and break, each started and stopped behind one interface."""
