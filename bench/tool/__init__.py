"""The benchmark tool itself: its arguments, the plan of its rounds, what it prints and writes."""
