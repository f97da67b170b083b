"""The load like TPC-C on a stock server: what it does, and that its conditions can be broken.

Out of scope: storage nodes under it (test_storage_pages.py), speed.
"""

import psycopg
import pytest
from fixtures.servers import Fleet

from bench.tpcc.run import CONDITIONS, findings, load_tables, run_tpcc
from bench.tpcc.schema import Scale

pytestmark = [pytest.mark.postgres, pytest.mark.faults]

SCALE = Scale(warehouses=1, districts=4, customers=20, items=100)

# For each condition, by the number that the standard gives it.
BREAKS = (
    "update warehouse set w_ytd = w_ytd + 1",
    "update district set d_next_o_id = d_next_o_id + 1 where d_id = 1",
    "delete from new_order where (no_d_id, no_o_id) in (select 2, min(no_o_id) + 1 from new_order"
    " where no_d_id = 2)",
    "update orders set o_lines = o_lines + 1 where o_id = 1",
    "update orders set o_carrier = null where o_id = 1",
    "update orders set o_lines = o_lines + 1 where o_id = 1",
    "update order_line set ol_delivered = now() where ol_o_id = (select max(o_id) from orders)",
    "update warehouse set w_ytd = w_ytd + 1",
    "update history set h_amount = h_amount + 100 where h_d_id = 1",
    "update customer set c_balance = c_balance + 1 where c_id = 1",
    "update customer set c_deliveries = c_deliveries + 1 where c_id = 1",
    "update customer set c_ytd_payment = c_ytd_payment + 1 where c_id = 1",
    "update stock set s_orders = s_orders + 1 where s_i_id = 1",
)


def test_every_transaction_commits_some_are_taken_back_and_all_conditions_hold(
    fleet: Fleet,
) -> None:
    server = fleet.server("p")
    server.start_blocking()
    load_tables(server, SCALE, seed=1)
    assert findings(server, SCALE) == []
    tally = run_tpcc(server, SCALE, clients=4, transactions=100, seed=1, checkpoint_every=40)
    assert tally.committed.keys() == {
        "new_order", "payment", "order_status", "delivery", "stock_level",
    }  # fmt: skip
    assert tally.taken_back > 0
    assert tally.committed.total() + tally.taken_back == 400
    assert findings(server, SCALE) == []
    with psycopg.connect(server.conninfo(), autocommit=True) as connection:
        orders = connection.execute("select count(*) from orders").fetchone()
        assert orders == (SCALE.districts * SCALE.customers + tally.committed["new_order"],)
        for (name, query), statement in zip(CONDITIONS.items(), BREAKS, strict=True):
            with connection.transaction(force_rollback=True):
                connection.execute(statement.encode())
                broken = connection.execute(query.format(customers=SCALE.customers).encode())
                assert broken.fetchall(), name
