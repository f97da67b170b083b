"""What loads choose at random: YCSB's records, TPC-C's customers, names and rows.

In scope: that it is the distribution that the standards describe, and the rows that belong
together. Out of scope: what servers make of it.
"""

import random
from collections import Counter

import pytest

from bench.loads.copy_load import BYTES, rows
from bench.loads.ycsb import FIELD_CHARACTERS, YcsbScript, field_text, key
from bench.loads.zipfian import Scrambled, Zipfian, fnv_hash, zeta
from bench.tpcc.choices import C_LAST_LOADED, C_LAST_RUN, last_name, nurand
from bench.tpcc.population import pieces
from bench.tpcc.schema import NAMES, Scale
from bench.tpcc.transactions import Client, order_lines

SCALE = Scale(warehouses=2, districts=3, customers=20, items=50)
DRAWS = 50_000

# YCSB.


def test_zipfian_ranks_have_the_shares_of_their_formula() -> None:
    items, rng = 1000, random.Random(1)
    zipfian = Zipfian(items)
    drawn = Counter(zipfian.rank(rng) for _ in range(DRAWS))
    assert set(drawn) <= set(range(items))
    for rank in (0, 1):  # these two are exact in Gray's method
        share = 1 / (rank + 1) ** 0.99 / zeta(1, items)
        assert drawn[rank] / DRAWS == pytest.approx(share, rel=0.1)
    below_ten = sum(drawn[rank] for rank in range(10)) / DRAWS
    assert below_ten == pytest.approx(zeta(1, 10) / zeta(1, items), rel=0.15)


def test_a_zipfian_that_grew_is_one_of_that_size() -> None:
    grown, whole = Zipfian(10), Zipfian(25)
    grown.grow(20)
    grown.grow(25)
    draws = [[z.rank(random.Random(n)) for n in range(1000)] for z in (grown, whole)]
    assert draws[0] == draws[1]


def test_popular_records_lie_anywhere_and_the_skew_stays() -> None:
    scrambled, rng = Scrambled(1000), random.Random(1)
    drawn = Counter(scrambled.record(rng) for _ in range(DRAWS))
    (most, count), *_ = drawn.most_common()
    assert most == fnv_hash(0) % 1000
    assert count / DRAWS == pytest.approx(1 / 26.469 + 1 / 1000, rel=0.2)
    assert len(drawn) > 900


def test_the_hash_is_that_of_ycsb() -> None:
    # site.ycsb.Utils.fnvhash64(0): FNV-1a of eight zero bytes, and Math.abs of it.
    signed = 0xCBF29CE484222325
    for _ in range(8):
        signed = signed * 0x100000001B3 % (1 << 64)
    assert fnv_hash(0) == min(signed, (1 << 64) - signed)
    assert key(0).startswith("user")
    assert len({fnv_hash(n) for n in range(10_000)}) == 10_000


@pytest.mark.parametrize("letter", "abcdef")
def test_clients_of_all_processes_insert_different_records(letter: str) -> None:
    script = YcsbScript(letter=letter, records=10, first_new=1000)
    clients = [*script.clients(range(0, 4, 2), 4, 1), *script.clients(range(1, 4, 2), 4, 1)]
    firsts = [getattr(client, "next_new") for client in clients]  # noqa: B009  # not the protocol's
    assert len(set(firsts)) == 4
    assert min(firsts) >= 1000
    assert len(field_text(random.Random(1))) == FIELD_CHARACTERS


def test_a_copy_has_as_many_bytes_as_it_says() -> None:
    assert len(rows(1)) == BYTES
    assert rows(1) == rows(1) != rows(2)


# TPC-C.


def test_last_names_are_the_standards() -> None:
    assert last_name(371) == "PRICALLYOUGHT"
    assert last_name(40) == "BARPRESBAR"
    assert last_name(999) == "EINGEINGEING"


def test_the_constants_of_last_names_are_as_far_apart_as_the_standard_wants() -> None:
    delta = abs(C_LAST_RUN - C_LAST_LOADED)
    assert 65 <= delta <= 119
    assert delta not in {96, 112}


def test_nurand_stays_in_its_range_and_is_not_uniform() -> None:
    rng = random.Random(1)
    drawn = Counter(nurand(rng, 1023, 1, 3000, 259) for _ in range(DRAWS))
    assert set(drawn) <= set(range(1, 3001))
    top = sum(count for _, count in drawn.most_common(300)) / DRAWS
    assert top > 0.25  # of a uniform choice it would be 0.1, and a little more by chance


def test_the_population_is_the_same_for_the_same_seed() -> None:
    for table in NAMES:
        assert b"".join(pieces(table, SCALE, 1)) == b"".join(pieces(table, SCALE, 1))
    assert b"".join(pieces("stock", SCALE, 1)) != b"".join(pieces("stock", SCALE, 2))


def table_rows(table: str) -> list[list[str]]:
    text = b"".join(pieces(table, SCALE, 1)).decode()
    return [line.split("\t") for line in text.splitlines()]


def test_the_population_has_the_standards_proportions() -> None:
    counts = {table: len(table_rows(table)) for table in NAMES}
    assert counts == {
        "warehouse": 2, "district": 6, "customer": 120, "history": 120, "item": 50, "stock": 100,
        "orders": 120, "new_order": 36, "order_line": sum(int(r[6]) for r in table_rows("orders")),
    }  # fmt: skip


def test_each_customer_has_one_order_and_the_undelivered_ones_are_the_last() -> None:
    orders = [row for row in table_rows("orders") if row[:2] == ["1", "1"]]
    assert sorted(int(row[3]) for row in orders) == list(range(1, 21))
    assert [row[5] == "\\N" for row in orders] == [number > 14 for number in range(1, 21)]


def test_orders_have_the_standards_shape() -> None:
    scale = Scale(warehouses=5, customers=3000, items=100_000)
    client = Client(None, scale, random.Random(1), 7)  # it asks nobody
    assert (client.warehouse, client.stock_district) == (3, 2)
    orders = [order_lines(client) for _ in range(5000)]
    assert {len(lines) for lines in orders} == set(range(5, 16))
    assert all(lines == sorted(lines) or lines[-1].item > scale.items for lines in orders)
    taken_back = sum(lines[-1].item > scale.items for lines in orders)
    assert taken_back / 5000 == pytest.approx(0.01, abs=0.005)
    every = [line for lines in orders for line in lines]
    remote = [line.supplier for line in every if line.supplier != 3]
    assert len(remote) / len(every) == pytest.approx(0.01, abs=0.003)
    assert set(remote) == {1, 2, 4, 5}


def test_with_one_warehouse_everything_is_at_home() -> None:
    client = Client(None, Scale(warehouses=1), random.Random(1), 7)  # it asks nobody
    assert {client.other_warehouse() for _ in range(100)} == {1}
