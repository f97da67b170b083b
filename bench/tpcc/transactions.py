"""The five transactions, each with what the standard has it read and write.

    new_order      45 %   half a dozen rows in five tables; one in a hundred is taken back
    payment        43 %   the rows that everybody wants: a warehouse's and a district's
    order_status    4 %   reads only
    delivery        4 %   one transaction over all districts of a warehouse
    stock_level     4 %   reads only, a range of order lines

A client is a terminal: its warehouse stays the same, and the district whose stock it looks at.
Lines of an order are sorted by warehouse and item, so that clients wait for each other but rarely
for ever. Prices of an order are read at once, and its lines sent without waiting in between: that
is what a sensible application does, and it keeps the driver's part small.
"""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final, TypeAlias

from .choices import C_CUSTOMER, C_ITEM, C_LAST_RUN, last_name, last_name_number, nurand
from .schema import Connection, Scale

TAKEN_BACK: Final = 0.01  # of the new orders
REMOTE_LINE: Final = 0.01  # supplied by another warehouse
REMOTE_PAYMENT: Final = 0.15  # of a customer of another warehouse
BY_NAME: Final = 0.6
DATA_CHARACTERS_MAX: Final = 500

_STOCK: Final = (
    "update stock set s_ytd = s_ytd + $3, s_orders = s_orders + 1, s_remote = s_remote + $4,"
    " s_quantity = case when s_quantity >= $3 + 10 then s_quantity - $3"
    " else s_quantity - $3 + 91 end"
    " where s_w_id = $1 and s_i_id = $2 returning s_quantity, s_dist_NN as dist, s_data"
)
STOCK: Final = tuple(_STOCK.replace("NN", f"{d:02}") for d in range(1, 11))
"""By district less one: each has a text of its own in a stock."""


class TakenBackError(Exception):
    """A new order names an item that there is not: nothing of it stays."""


@dataclass(frozen=True, slots=True)
class Client:
    """One who enters orders: a connection, a place, and choices that a seed makes."""

    connection: Connection
    scale: Scale
    rng: random.Random
    number: int  # of all clients, from 0: it decides the place
    taken_back: float = TAKEN_BACK

    @property
    def warehouse(self) -> int:
        """Where the client is."""
        return self.number % self.scale.warehouses + 1

    @property
    def stock_district(self) -> int:
        """Whose stock the client looks at."""
        return self.number // self.scale.warehouses % self.scale.districts + 1

    def is_one_of(self, share: float) -> bool:
        """Whether something happens that happens so often."""
        return self.rng.uniform(0, 1) < share

    def other_warehouse(self) -> int:
        """Another one; the same if there is no other."""
        last = self.scale.warehouses
        return (self.warehouse + self.rng.randint(0, max(last - 2, 0))) % last + 1

    def district(self) -> int:
        """One of a warehouse."""
        return self.rng.randint(1, self.scale.districts)

    def customer(self) -> int:
        """One of a district, some of them much more often."""
        return nurand(self.rng, 1023, 1, self.scale.customers, C_CUSTOMER)

    def item(self) -> int:
        """One of all, likewise."""
        return nurand(self.rng, 8191, 1, self.scale.items, C_ITEM)


@dataclass(frozen=True, slots=True, order=True)
class Line:
    """What is ordered; in the order in which stocks are locked."""

    supplier: int
    item: int
    quantity: int


def order_lines(client: Client) -> list[Line]:
    """5 to 15 lines; in one of a hundred orders an item that there is not, at the end."""
    rng = client.rng
    lines = sorted(
        Line(
            client.other_warehouse() if client.is_one_of(REMOTE_LINE) else client.warehouse,
            client.item(),
            rng.randint(1, 10),
        )
        for _ in range(rng.randint(5, 15))
    )
    if client.is_one_of(client.taken_back):
        lines[-1] = Line(client.warehouse, client.scale.items + 1, 1)
    return lines


async def new_order(client: Client) -> None:
    """Enter an order."""
    run, w, d, c = client.connection, client.warehouse, client.district(), client.customer()
    lines = order_lines(client)
    who = await run.fetchrow(
        "select w_tax, c_discount, c_last, c_credit from customer, warehouse"
        " where w_id = $1 and c_w_id = $1 and c_d_id = $2 and c_id = $3", w, d, c,
    )  # fmt: skip
    district = await run.fetchrow(
        "update district set d_next_o_id = d_next_o_id + 1 where d_w_id = $1 and d_id = $2"
        " returning d_next_o_id - 1 as order, d_tax", w, d,
    )  # fmt: skip
    assert who is not None, "customers stay"
    assert district is not None, "districts stay"
    order = district["order"]
    await run.execute(
        "insert into orders values ($1, $2, $3, $4, now(), null, $5, $6)",
        w, d, order, c, len(lines), int(all(line.supplier == w for line in lines)),
    )  # fmt: skip
    await run.execute("insert into new_order values ($1, $2, $3)", w, d, order)
    found = await run.fetch(
        "select i_id, i_price, i_name, i_data from item where i_id = any($1::int[])",
        [line.item for line in lines],
    )  # fmt: skip
    items = {row["i_id"]: row for row in found}
    rows, total = [], Decimal()
    for number, line in enumerate(lines, 1):
        item = items.get(line.item)
        if item is None:
            raise TakenBackError
        stock = await run.fetchrow(
            STOCK[d - 1], line.supplier, line.item, line.quantity, int(line.supplier != w)
        )
        assert stock is not None, "every warehouse has a stock of every item"
        amount = item["i_price"] * line.quantity
        total += amount
        rows.append(
            (w, d, order, number, line.item, line.supplier, line.quantity, amount, stock["dist"])
        )
    await run.executemany(
        "insert into order_line values ($1, $2, $3, $4, $5, $6, null, $7, $8, $9)", rows
    )
    # What the customer would be shown.
    total *= (1 - who["c_discount"]) * (1 + who["w_tax"] + district["d_tax"])


async def payment(client: Client) -> None:
    """Take money of a customer, most by their name, some of another warehouse."""
    run, w, d = client.connection, client.warehouse, client.district()
    amount = Decimal(client.rng.randint(100, 500_000)) / 100
    of_w, of_d = w, d
    if client.is_one_of(REMOTE_PAYMENT):
        of_w, of_d = client.other_warehouse(), client.district()
    place = await run.fetchrow(
        "update warehouse set w_ytd = w_ytd + $2 where w_id = $1"
        " returning w_name, w_street_1, w_street_2, w_city, w_state, w_zip", w, amount,
    )  # fmt: skip
    part = await run.fetchrow(
        "update district set d_ytd = d_ytd + $3 where d_w_id = $1 and d_id = $2"
        " returning d_name, d_street_1, d_street_2, d_city, d_state, d_zip", w, d, amount,
    )  # fmt: skip
    assert place is not None, "warehouses stay"
    assert part is not None, "districts stay"
    c = await _customer(client, of_w, of_d)
    credit = await run.fetchval(
        "update customer set c_balance = c_balance - $4, c_ytd_payment = c_ytd_payment + $4,"
        " c_payments = c_payments + 1 where c_w_id = $1 and c_d_id = $2 and c_id = $3"
        " returning c_credit", of_w, of_d, c, amount,
    )  # fmt: skip
    if credit == "BC":
        await run.fetchval(
            "update customer set c_data = left($4 || c_data, $5)"
            " where c_w_id = $1 and c_d_id = $2 and c_id = $3 returning left(c_data, 200)",
            of_w, of_d, c, f"{c} {of_d} {of_w} {d} {w} {amount} ", DATA_CHARACTERS_MAX,
        )  # fmt: skip
    await run.execute(
        "insert into history values ($1, $2, $3, $4, $5, now(), $6, $7)",
        c, of_d, of_w, d, w, amount, f"{place['w_name']}    {part['d_name']}",
    )  # fmt: skip


async def order_status(client: Client) -> None:
    """Look at the last order of a customer."""
    run, w, d = client.connection, client.warehouse, client.district()
    c = await _customer(client, w, d)
    await run.fetchrow(
        "select c_balance, c_first, c_middle, c_last from customer"
        " where c_w_id = $1 and c_d_id = $2 and c_id = $3", w, d, c,
    )  # fmt: skip
    order = await run.fetchrow(
        "select o_id, o_entry, o_carrier from orders"
        " where o_w_id = $1 and o_d_id = $2 and o_c_id = $3 order by o_id desc limit 1", w, d, c,
    )  # fmt: skip
    assert order is not None, "every customer has ordered"
    await run.fetch(
        "select ol_i_id, ol_supply_w_id, ol_quantity, ol_amount, ol_delivered from order_line"
        " where ol_w_id = $1 and ol_d_id = $2 and ol_o_id = $3", w, d, order["o_id"],
    )  # fmt: skip


async def delivery(client: Client) -> None:
    """Deliver the oldest order of each district of a warehouse.

    Who finds it taken by another delivery waits for that: a district's orders go in their order
    also when one delivery is rolled back.
    """
    run, w, carrier = client.connection, client.warehouse, client.rng.randint(1, 10)
    now = datetime.now(UTC)
    for d in range(1, client.scale.districts + 1):
        order = await run.fetchval(
            "delete from new_order where no_w_id = $1 and no_d_id = $2 and no_o_id = ("
            " select no_o_id from new_order where no_w_id = $1 and no_d_id = $2"
            " order by no_o_id limit 1 for update) returning no_o_id", w, d,
        )  # fmt: skip
        if order is None:
            continue
        c = await run.fetchval(
            "update orders set o_carrier = $4 where o_w_id = $1 and o_d_id = $2 and o_id = $3"
            " returning o_c_id", w, d, order, carrier,
        )  # fmt: skip
        amount = await run.fetchval(
            "with delivered as (update order_line set ol_delivered = $4 where ol_w_id = $1"
            " and ol_d_id = $2 and ol_o_id = $3 returning ol_amount)"
            " select sum(ol_amount) from delivered", w, d, order, now,
        )  # fmt: skip
        await run.execute(
            "update customer set c_balance = c_balance + $4, c_deliveries = c_deliveries + 1"
            " where c_w_id = $1 and c_d_id = $2 and c_id = $3", w, d, c, amount,
        )  # fmt: skip


async def stock_level(client: Client) -> None:
    """Count the items of the last twenty orders of a district of which little is left."""
    run, w, d = client.connection, client.warehouse, client.stock_district
    await run.fetchval(
        "select count(distinct s_i_id) from district, order_line, stock"
        " where d_w_id = $1 and d_id = $2 and ol_w_id = $1 and ol_d_id = $2"
        " and ol_o_id between d_next_o_id - 20 and d_next_o_id - 1"
        " and s_w_id = $1 and s_i_id = ol_i_id and s_quantity < $3",
        w, d, client.rng.randint(10, 20),
    )  # fmt: skip


async def _customer(client: Client, w: int, d: int) -> int:
    """A customer by number or, more often, the middle one of those with a name."""
    if not client.is_one_of(BY_NAME):
        return client.customer()
    name = last_name(last_name_number(client.rng, client.scale.customers, C_LAST_RUN))
    found = await client.connection.fetch(
        "select c_id from customer where c_w_id = $1 and c_d_id = $2 and c_last = $3"
        " order by c_first", w, d, name,
    )  # fmt: skip
    return int(found[(len(found) - 1) // 2]["c_id"])


Transaction: TypeAlias = Callable[[Client], Awaitable[None]]

MIX: Final[tuple[tuple[Transaction, int], ...]] = (
    (new_order, 45), (payment, 43), (order_status, 4), (delivery, 4), (stock_level, 4),
)  # fmt: skip
"""Each with its share of a hundred."""

_KINDS: Final = [kind for kind, _ in MIX]
_SHARES: Final = [share for _, share in MIX]


def next_kind(rng: random.Random) -> Transaction:
    """Which one a client carries out next."""
    (kind,) = rng.choices(_KINDS, _SHARES)
    return kind
