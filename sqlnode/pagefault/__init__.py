"""pagefault: the C library that sits inside postgres, and the agent's binding to its block map."""
