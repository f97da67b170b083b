"""The five transactions, each with the statements that the standard gives it.

    new_order      45 %   half a dozen rows in four tables; one in thirty is taken back at its end
    payment        43 %   the rows that everybody wants: a warehouse's and a district's
    order_status    4 %   reads only
    delivery        4 %   one transaction over all districts of a warehouse
    stock_level     4 %   reads only, a range of order lines

Items are taken in order of their numbers, and districts too, so that clients wait for each other
but rarely for ever; who meets a deadlock all the same tries again.
"""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, TypeAlias

from .schema import Connection, Scale

TAKEN_BACK: Final = 1 / 30  # the standard says 1 of 100; tests are shorter
ELSEWHERE: Final = 0.15  # payments of customers of another district, as the standard says
BY_NAME: Final = 0.6


class TakenBackError(Exception):
    """A new order names an item that there is not: nothing of it stays."""


@dataclass(frozen=True, slots=True)
class Client:
    """One who enters orders: a connection, and choices that a seed makes."""

    connection: Connection
    scale: Scale
    rng: random.Random

    def warehouse(self) -> int:
        """One of them."""
        return self.rng.randint(1, self.scale.warehouses)

    def district(self) -> int:
        """One of a warehouse."""
        return self.rng.randint(1, self.scale.districts)

    def customer(self) -> int:
        """One of a district, some of them much more often."""
        rng, last = self.rng, self.scale.customers
        return ((rng.randrange(1024) | rng.randint(1, last)) % last) + 1


async def new_order(client: Client) -> None:
    """Enter an order of 5 to 15 lines."""
    rng, run = client.rng, client.connection
    w, d, c = client.warehouse(), client.district(), client.customer()
    items = sorted(rng.sample(range(1, client.scale.items + 1), rng.randint(5, 15)))
    if rng.uniform(0, 1) < TAKEN_BACK:
        items[-1] = client.scale.items + 1
    order = await run.fetchval(
        "update district set d_next_o_id = d_next_o_id + 1 where d_w_id = $1 and d_id = $2"
        " returning d_next_o_id - 1", w, d,
    )  # fmt: skip
    await run.fetchrow(
        "select c_discount, c_last, c_credit, w_tax from customer, warehouse"
        " where w_id = $1 and c_w_id = $1 and c_d_id = $2 and c_id = $3", w, d, c,
    )  # fmt: skip
    await run.execute(
        "insert into orders values ($1, $2, $3, $4, now(), null, $5)", w, d, order, c, len(items)
    )
    await run.execute("insert into new_order values ($1, $2, $3)", w, d, order)
    for number, item in enumerate(items, 1):
        quantity = rng.randint(1, 10)
        price = await run.fetchval("select i_price from item where i_id = $1", item)
        if price is None:
            raise TakenBackError
        dist = await run.fetchval(
            "update stock set s_ytd = s_ytd + $3, s_orders = s_orders + 1, s_quantity ="
            " case when s_quantity >= $3 + 10 then s_quantity - $3 else s_quantity - $3 + 91 end"
            " where s_w_id = $1 and s_i_id = $2 returning s_dist", w, item, quantity,
        )  # fmt: skip
        await run.execute(
            "insert into order_line values ($1, $2, $3, $4, $5, $1, null, $6, $7, $8)",
            w, d, order, number, item, quantity, price * quantity, dist,
        )  # fmt: skip


async def payment(client: Client) -> None:
    """Take money of a customer, some by their name, some of another district."""
    rng, run = client.rng, client.connection
    w, d, amount = client.warehouse(), client.district(), rng.randint(100, 500_000)
    of_w, of_d = (
        (client.warehouse(), client.district()) if rng.uniform(0, 1) < ELSEWHERE else (w, d)
    )
    await run.execute("update warehouse set w_ytd = w_ytd + $2 / 100.0 where w_id = $1", w, amount)
    await run.execute(
        "update district set d_ytd = d_ytd + $3 / 100.0 where d_w_id = $1 and d_id = $2",
        w, d, amount,
    )  # fmt: skip
    c = await _customer(client, of_w, of_d)
    await run.execute(
        "update customer set c_balance = c_balance - $4 / 100.0,"
        " c_ytd_payment = c_ytd_payment + $4 / 100.0, c_payments = c_payments + 1, c_data ="
        " case c_credit when 'BC' then left($5 || ' ' || c_data, 500) else c_data end"
        " where c_w_id = $1 and c_d_id = $2 and c_id = $3",
        of_w, of_d, c, amount, f"{c} {of_d} {of_w} {d} {w} {amount}",
    )  # fmt: skip
    await run.execute(
        "insert into history values ($1, $2, $3, $4, $5, now(), $6 / 100.0, 'a payment')",
        w, d, of_w, of_d, c, amount,
    )  # fmt: skip


async def order_status(client: Client) -> None:
    """Look at the last order of a customer."""
    run, w, d = client.connection, client.warehouse(), client.district()
    c = await _customer(client, w, d)
    order = await run.fetchval(
        "select max(o_id) from orders where o_w_id = $1 and o_d_id = $2 and o_c_id = $3", w, d, c
    )
    await run.fetch(
        "select * from order_line where ol_w_id = $1 and ol_d_id = $2 and ol_o_id = $3",
        w, d, order,
    )  # fmt: skip


async def delivery(client: Client) -> None:
    """Deliver the oldest order of each district of a warehouse."""
    run, w, carrier = client.connection, client.warehouse(), client.rng.randint(1, 10)
    now = datetime.now(UTC)
    for d in range(1, client.scale.districts + 1):
        order = await run.fetchval(
            "delete from new_order where no_w_id = $1 and no_d_id = $2 and no_o_id = ("
            " select no_o_id from new_order where no_w_id = $1 and no_d_id = $2"
            " order by no_o_id limit 1 for update skip locked) returning no_o_id", w, d,
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
    run, w, d = client.connection, client.warehouse(), client.district()
    await run.fetchval(
        "select count(distinct s_i_id) from district, order_line, stock"
        " where d_w_id = $1 and d_id = $2 and ol_w_id = $1 and ol_d_id = $2"
        " and ol_o_id between d_next_o_id - 20 and d_next_o_id - 1"
        " and s_w_id = $1 and s_i_id = ol_i_id and s_quantity < $3",
        w, d, client.rng.randint(10, 20),
    )  # fmt: skip


async def _customer(client: Client, w: int, d: int) -> int:
    """A customer by number or, more often, the middle one of those with a name."""
    c = client.customer()
    if client.rng.uniform(0, 1) >= BY_NAME:
        return c
    found = await client.connection.fetch(
        "select c_id from customer where c_w_id = $1 and c_d_id = $2 and c_last = $3 order by c_id",
        w, d, f"name {c % 20}",
    )  # fmt: skip
    return int(found[len(found) // 2]["c_id"])


Transaction: TypeAlias = Callable[[Client], Awaitable[None]]

MIX: Final[tuple[tuple[Transaction, int], ...]] = (
    (new_order, 45), (payment, 43), (order_status, 4), (delivery, 4), (stock_level, 4),
)  # fmt: skip
"""Each with its share of a hundred."""
