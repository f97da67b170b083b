"""The promises of faulting blocks, measured: their cost, their speed, and how soon a compute opens.

`python -P -m bench.pagefault` runs all of it; bench/README.md says what each figure means.
"""
