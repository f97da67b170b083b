"""A load like TPC-C, for tests and benchmarks: nine tables, five transactions, one seed.

`run.py` has what callers need:

    scale = Scale(warehouses=2)
    load_tables(server, scale, seed=1)
    tally = run_tpcc(server, scale, clients=4, transactions=200, seed=1)
    findings(server, scale)        # what the standard says must hold at any time; empty: it does

Like it, and not it: no think times, smaller tables, and figures that compare with nobody's.
"""
