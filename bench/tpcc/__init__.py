"""TPC-C: nine tables, five transactions, and what the standard says must hold of them.

`run.py` has what tests need, `bench/loads/tpcc_load.py` what benchmarks do:

    scale = Scale(warehouses=2)
    load_tables(server, scale, seed=1)
    tally = run_tpcc(server, scale, clients=4, transactions=200, seed=1)
    findings(server, scale)        # what must hold at any time and does not; empty: it does

Faithful are the columns, the cardinalities of a full scale, the population, the mix, the skew, the
shares of remote warehouses and of orders that are taken back, what each transaction reads and
writes, and the consistency conditions. Not done: key and think times, terminals with screens, the
queue of deliveries, the audit. So its figures are no tpmC of the TPC.
Isolation is READ COMMITTED, as TPC-C on PostgreSQL mostly has it: every balance is changed by one
statement from what it was, under a row lock.
"""
