"""The nine tables, their indexes, and what they begin with: the same for the same seed.

Sizes are a small part of the standard's, in the same proportions, so that a test fills them in a
moment. Foreign keys are declared, because checking them locks rows; `data` columns are as wide as
the standard wants them, so that rows move when they grow.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    import asyncpg

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How many rows the tables have at first."""

    warehouses: int = 2
    districts: int = 10  # of a warehouse
    customers: int = 60  # of a district, each with one order
    items: int = 1_000  # of which every warehouse has a stock

    @property
    def undelivered(self) -> int:
        """How many of a district's first orders are still to be delivered: 3 of 10."""
        return self.customers * 3 // 10


TABLES: Final = """
create table warehouse (
    w_id int primary key, w_name text, w_tax numeric(4, 4), w_ytd numeric(12, 2) not null);
create table district (
    d_w_id int references warehouse, d_id int, d_name text, d_tax numeric(4, 4),
    d_ytd numeric(12, 2) not null, d_next_o_id int not null, primary key (d_w_id, d_id));
create table customer (
    c_w_id int, c_d_id int, c_id int, c_last text, c_credit text, c_discount numeric(4, 4),
    c_balance numeric(12, 2) not null, c_ytd_payment numeric(12, 2) not null,
    c_payments int not null, c_deliveries int not null, c_data text,
    primary key (c_w_id, c_d_id, c_id), foreign key (c_w_id, c_d_id) references district);
create table history (
    h_w_id int, h_d_id int, h_c_w_id int, h_c_d_id int, h_c_id int, h_date timestamptz,
    h_amount numeric(12, 2) not null, h_data text,
    foreign key (h_c_w_id, h_c_d_id, h_c_id) references customer);
create table item (i_id int primary key, i_name text, i_price numeric(5, 2), i_data text);
create table stock (
    s_w_id int references warehouse, s_i_id int references item, s_quantity int not null,
    s_ytd int not null, s_orders int not null, s_dist text, s_data text,
    primary key (s_w_id, s_i_id));
create table orders (
    o_w_id int, o_d_id int, o_id int, o_c_id int not null, o_entry timestamptz, o_carrier int,
    o_lines int not null, primary key (o_w_id, o_d_id, o_id),
    foreign key (o_w_id, o_d_id, o_c_id) references customer);
create table new_order (
    no_w_id int, no_d_id int, no_o_id int, primary key (no_w_id, no_d_id, no_o_id),
    foreign key (no_w_id, no_d_id, no_o_id) references orders);
create table order_line (
    ol_w_id int, ol_d_id int, ol_o_id int, ol_number int, ol_i_id int, ol_supply_w_id int,
    ol_delivered timestamptz, ol_quantity int, ol_amount numeric(8, 2) not null, ol_dist text,
    primary key (ol_w_id, ol_d_id, ol_o_id, ol_number),
    foreign key (ol_w_id, ol_d_id, ol_o_id) references orders,
    foreign key (ol_supply_w_id, ol_i_id) references stock);
create index customer_by_name on customer (c_w_id, c_d_id, c_last, c_id);
create index orders_by_customer on orders (o_w_id, o_d_id, o_c_id, o_id);
create index undelivered_lines on order_line (ol_w_id, ol_i_id) where ol_delivered is null;
"""

# {w}, {d}, {c}, {i}, {n}: warehouses, districts, customers, items, the first order not delivered.
ROWS: Final = """
insert into warehouse
    select w, 'warehouse ' || w, random()::numeric * 0.2, 30000.00 * {d}
    from generate_series(1, {w}) w;
insert into district
    select w, d, 'district ' || d, random()::numeric * 0.2, 30000.00, {c} + 1
    from generate_series(1, {w}) w, generate_series(1, {d}) d;
insert into customer
    select w, d, c, 'name ' || c % 20, case when random() < 0.1 then 'BC' else 'GC' end,
        random()::numeric * 0.5, -10.00, 10.00, 1, 0, repeat(md5(c::text), 10)
    from generate_series(1, {w}) w, generate_series(1, {d}) d, generate_series(1, {c}) c;
insert into history
    select c_w_id, c_d_id, c_w_id, c_d_id, c_id, now(), 30000.00 / {c}, 'first payment'
    from customer;
insert into item
    select i, 'item ' || i, 1 + (random() * 99)::numeric, md5(i::text)
    from generate_series(1, {i}) i;
insert into stock
    select w, i, 10 + floor(random() * 90), 0, 0, md5(w::text), md5(i::text)
    from generate_series(1, {w}) w, generate_series(1, {i}) i;
insert into orders
    select c_w_id, c_d_id, c_id, {c} + 1 - c_id, now(),
        case when c_id < {n} then 1 + floor(random() * 10) end, 5 + floor(random() * 11)
    from customer;
insert into new_order select o_w_id, o_d_id, o_id from orders where o_id >= {n};
insert into order_line
    select o_w_id, o_d_id, o_id, l, 1 + floor(random() * {i}), o_w_id,
        case when o_id < {n} then now() end, 5,
        case when o_id < {n} then 0 else 1 + (random() * 9998)::numeric end, md5(l::text)
    from orders, generate_series(1, o_lines) l;
"""


async def load(connection: Connection, scale: Scale, seed: int) -> None:
    """Make and fill the tables, in one transaction."""
    rows = ROWS.format(
        w=scale.warehouses,
        d=scale.districts,
        c=scale.customers,
        i=scale.items,
        n=scale.customers + 1 - scale.undelivered,
    )
    async with connection.transaction():
        await connection.execute(f"set local timezone to utc; select setseed({1 / (seed + 1)})")
        await connection.execute(TABLES)
        await connection.execute(rows)
    await connection.execute("vacuum analyze")
