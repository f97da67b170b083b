"""What must hold of the tables whenever nobody is at work: the standard's clause 3.3.2.

Each condition is a query for what breaks it. `{customers}` is how many a district has; the first so
many of its orders are there from the beginning. Some of them follow from others.
"""

from typing import Final

from .schema import Connection, Scale

FINDINGS_A_CONDITION: Final = 10  # of thousands that one fault makes

# What a customer was delivered; what a customer has paid.
_DELIVERED: Final = """
    select o_w_id, o_d_id, o_c_id, sum(ol_amount) as delivered from orders join order_line
        on (ol_w_id, ol_d_id, ol_o_id) = (o_w_id, o_d_id, o_id)
    where ol_delivered is not null group by 1, 2, 3"""
_PAID: Final = """
    select h_c_w_id, h_c_d_id, h_c_id, sum(h_amount) as paid from history group by 1, 2, 3"""

CONDITIONS: Final = {
    "a warehouse has taken what its districts have (1)": """
        select w_id from warehouse where w_ytd is distinct from
            (select sum(d_ytd) from district where d_w_id = w_id)""",
    "the next order of a district follows its last, and its last undelivered one (2)": """
        select d_w_id, d_id from district where d_next_o_id - 1 is distinct from
            (select max(o_id) from orders where o_w_id = d_w_id and o_d_id = d_id)
        or d_next_o_id - 1 <>
            (select max(no_o_id) from new_order where no_w_id = d_w_id and no_d_id = d_id)""",
    "undelivered orders of a district have no gaps (3)": """
        select no_w_id, no_d_id from new_order group by 1, 2
        having max(no_o_id) - min(no_o_id) + 1 <> count(*)""",
    "a district has as many lines as its orders say (4)": """
        select d_w_id, d_id from district where
            (select sum(o_lines) from orders where o_w_id = d_w_id and o_d_id = d_id)
            is distinct from
            (select count(*) from order_line where ol_w_id = d_w_id and ol_d_id = d_id)""",
    "an order has a carrier exactly if it is delivered (5)": """
        select o_w_id, o_d_id, o_id from orders left join new_order
            on (no_w_id, no_d_id, no_o_id) = (o_w_id, o_d_id, o_id)
        where (o_carrier is null) <> (no_o_id is not null)""",
    "an order has as many lines as it says (6)": """
        select o_w_id, o_d_id, o_id from orders left join
            (select ol_w_id, ol_d_id, ol_o_id, count(*) as lines from order_line group by 1, 2, 3)
            counted on (ol_w_id, ol_d_id, ol_o_id) = (o_w_id, o_d_id, o_id)
        where o_lines is distinct from lines""",
    "a line is delivered exactly if its order is (7)": """
        select distinct ol_w_id, ol_d_id, ol_o_id from order_line join orders
            on (ol_w_id, ol_d_id, ol_o_id) = (o_w_id, o_d_id, o_id)
        where (ol_delivered is null) <> (o_carrier is null)""",
    "a warehouse has taken what its history says (8)": """
        select w_id from warehouse left join
            (select h_w_id, sum(h_amount) as taken from history group by 1) history
            on h_w_id = w_id
        where w_ytd is distinct from taken""",
    "a district has taken what its history says (9)": """
        select d_w_id, d_id from district left join
            (select h_w_id, h_d_id, sum(h_amount) as taken from history group by 1, 2) history
            on (h_w_id, h_d_id) = (d_w_id, d_id)
        where d_ytd is distinct from taken""",
    "a customer owes what was delivered less what was paid (10)": f"""
        select c_w_id, c_d_id, c_id from customer
            left join ({_DELIVERED}) delivered on (o_w_id, o_d_id, o_c_id) = (c_w_id, c_d_id, c_id)
            left join ({_PAID}) paid on (h_c_w_id, h_c_d_id, h_c_id) = (c_w_id, c_d_id, c_id)
        where c_balance <> coalesce(delivered, 0) - coalesce(paid, 0)""",  # noqa: S608  # our own text
    # The standard has a number for the moment after the population; deliveries are counted too.
    "a district's orders are undelivered, or were at first delivered, or since (11)": """
        select d_w_id, d_id from district where
            (select count(*) from orders where o_w_id = d_w_id and o_d_id = d_id) -
            (select count(*) from new_order where no_w_id = d_w_id and no_d_id = d_id) <>
            {customers} - {customers} * 3 / 10 +
            (select sum(c_deliveries) from customer where c_w_id = d_w_id and c_d_id = d_id)""",
    "a customer owes and has paid what was delivered (12)": f"""
        select c_w_id, c_d_id, c_id from customer
            left join ({_DELIVERED}) delivered on (o_w_id, o_d_id, o_c_id) = (c_w_id, c_d_id, c_id)
        where c_balance + c_ytd_payment <> coalesce(delivered, 0)""",  # noqa: S608  # our own text
    "a stock was ordered as often and as much as lines say (of this program)": """
        select s_w_id, s_i_id from stock left join
            (select ol_supply_w_id, ol_i_id, count(*) as orders, sum(ol_quantity) as quantity,
                count(*) filter (where ol_supply_w_id <> ol_w_id) as remote
            from order_line where ol_o_id > {customers} group by 1, 2) ordered
            on (ol_supply_w_id, ol_i_id) = (s_w_id, s_i_id)
        where (s_orders, s_ytd, s_remote) <>
            (coalesce(orders, 0), coalesce(quantity, 0), coalesce(remote, 0))""",
}


async def findings_of(connection: Connection, scale: Scale) -> list[str]:
    """Say which of the conditions are broken, and where; empty: none."""
    found = []
    for name, query in CONDITIONS.items():
        broken = await connection.fetch(query.format(customers=scale.customers))
        found += [f"not so: {name}: {tuple(row)}" for row in broken[:FINDINGS_A_CONDITION]]
    return found
