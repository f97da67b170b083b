"""The nine tables, their keys and indexes, and how large they are.

Names of columns are the standard's, but for those that say what they count: o_lines (O_OL_CNT),
o_carrier (O_CARRIER_ID), o_entry (O_ENTRY_D), ol_delivered (OL_DELIVERY_D), ol_dist (OL_DIST_INFO),
c_payments (C_PAYMENT_CNT), c_deliveries (C_DELIVERY_CNT), s_orders (S_ORDER_CNT), s_remote
(S_REMOTE_CNT). Foreign keys are declared, because checking them locks rows. Keys come after the
rows: that is quicker.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    import asyncpg

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

FULL_CUSTOMERS: Final = 3_000
FULL_ITEMS: Final = 100_000
DISTRICTS: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How many rows the tables have at first. By default a small part, for tests."""

    warehouses: int = 2
    districts: int = DISTRICTS  # of a warehouse, at most ten: stocks have a text for each
    customers: int = 60  # of a district, each with one order
    items: int = 1_000  # of which every warehouse has a stock

    @classmethod
    def full(cls, warehouses: int) -> "Scale":
        """The standard's: some 80 MB a warehouse."""
        return cls(warehouses=warehouses, customers=FULL_CUSTOMERS, items=FULL_ITEMS)

    @property
    def undelivered(self) -> int:
        """How many of a district's first orders are still to be delivered: 3 of 10."""
        return self.customers * 3 // 10


_ADDRESS: Final = """
    {0}_street_1 varchar(20), {0}_street_2 varchar(20), {0}_city varchar(20), {0}_state char(2),
    {0}_zip char(9)"""

_DIST_COLUMNS: Final = ", ".join(f"s_dist_{number:02} char(24)" for number in range(1, 11))

NAMES: Final = (
    "warehouse", "district", "customer", "history", "item", "stock", "orders", "new_order",
    "order_line",
)  # fmt: skip

TABLES: Final = f"""
create table warehouse (
    w_id int, w_name varchar(10), {_ADDRESS.format("w")}, w_tax numeric(4, 4),
    w_ytd numeric(12, 2) not null);
create table district (
    d_w_id int, d_id int, d_name varchar(10), {_ADDRESS.format("d")}, d_tax numeric(4, 4),
    d_ytd numeric(12, 2) not null, d_next_o_id int not null);
create table customer (
    c_w_id int, c_d_id int, c_id int, c_first varchar(16), c_middle char(2), c_last varchar(16),
    {_ADDRESS.format("c")}, c_phone char(16), c_since timestamptz, c_credit char(2),
    c_credit_lim numeric(12, 2), c_discount numeric(4, 4), c_balance numeric(12, 2) not null,
    c_ytd_payment numeric(12, 2) not null, c_payments int not null, c_deliveries int not null,
    c_data varchar(500));
create table history (
    h_c_id int, h_c_d_id int, h_c_w_id int, h_d_id int, h_w_id int, h_date timestamptz,
    h_amount numeric(6, 2) not null, h_data varchar(24));
create table item (
    i_id int, i_im_id int, i_name varchar(24), i_price numeric(5, 2), i_data varchar(50));
create table stock (
    s_w_id int, s_i_id int, s_quantity int not null, {_DIST_COLUMNS}, s_ytd int not null,
    s_orders int not null, s_remote int not null, s_data varchar(50));
create table orders (
    o_w_id int, o_d_id int, o_id int, o_c_id int not null, o_entry timestamptz, o_carrier int,
    o_lines int not null, o_all_local int);
create table new_order (no_w_id int, no_d_id int, no_o_id int);
create table order_line (
    ol_w_id int, ol_d_id int, ol_o_id int, ol_number int, ol_i_id int, ol_supply_w_id int,
    ol_delivered timestamptz, ol_quantity int not null, ol_amount numeric(6, 2) not null,
    ol_dist char(24));
"""

KEYS: Final = (
    "alter table warehouse add primary key (w_id)",
    "alter table district add primary key (d_w_id, d_id)",
    "alter table customer add primary key (c_w_id, c_d_id, c_id)",
    "alter table item add primary key (i_id)",
    "alter table stock add primary key (s_w_id, s_i_id)",
    "alter table orders add primary key (o_w_id, o_d_id, o_id)",
    "alter table new_order add primary key (no_w_id, no_d_id, no_o_id)",
    "alter table order_line add primary key (ol_w_id, ol_d_id, ol_o_id, ol_number)",
    "create index customer_by_name on customer (c_w_id, c_d_id, c_last, c_first)",
    "create index orders_by_customer on orders (o_w_id, o_d_id, o_c_id, o_id)",
    "alter table district add foreign key (d_w_id) references warehouse",
    "alter table customer add foreign key (c_w_id, c_d_id) references district",
    "alter table history add foreign key (h_c_w_id, h_c_d_id, h_c_id) references customer",
    "alter table history add foreign key (h_w_id, h_d_id) references district",
    "alter table stock add foreign key (s_w_id) references warehouse",
    "alter table stock add foreign key (s_i_id) references item",
    "alter table orders add foreign key (o_w_id, o_d_id, o_c_id) references customer",
    "alter table new_order add foreign key (no_w_id, no_d_id, no_o_id) references orders",
    "alter table order_line add foreign key (ol_w_id, ol_d_id, ol_o_id) references orders",
    "alter table order_line add foreign key (ol_supply_w_id, ol_i_id) references stock",
)
