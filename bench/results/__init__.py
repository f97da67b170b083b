"""What was measured: its form, its files, and what two of them say about each other."""
