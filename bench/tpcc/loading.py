"""Make and fill the tables over a connection, and tell how large they were made."""

from collections.abc import AsyncIterator
from typing import Final

from .population import pieces
from .schema import KEYS, NAMES, TABLES, Connection, Scale

COMMENT: Final = "TPC-C {scale.warehouses} {scale.districts} {scale.customers} {scale.items}"


class ScaleError(Exception):
    """The tables are not there, or not from here; the text says what to do."""


async def load(connection: Connection, scale: Scale, seed: int) -> None:
    """Make and fill the tables anew, in one transaction."""
    assert scale.districts <= 10, "a stock has texts for ten districts"  # noqa: PLR2004  # the standard's
    async with connection.transaction():
        await connection.execute(f"drop table if exists {', '.join(NAMES)} cascade")
        await connection.execute(TABLES)
        for table in NAMES:
            # Made in this transaction, so rows may be frozen: nobody has to visit them again.
            await connection.copy_to_table(
                table, source=_source(table, scale, seed), format="text", freeze=True
            )
        for key in KEYS:
            await connection.execute(key)
        comment = COMMENT.format(scale=scale)
        await connection.execute(f"comment on table warehouse is '{comment}'")
    await connection.execute(f"vacuum analyze {', '.join(NAMES)}")


async def scale_of(connection: Connection) -> Scale:
    """What `load` was given; ScaleError if there are no such tables."""
    comment = await connection.fetchval(
        "select obj_description(to_regclass('warehouse'), 'pg_class')"
    )
    match (comment or "").split():
        case ["TPC-C", warehouses, districts, customers, items]:
            return Scale(
                warehouses=int(warehouses), districts=int(districts), customers=int(customers),
                items=int(items),
            )  # fmt: skip
        case _:
            raise ScaleError("there are no tables of TPC-C: prepare them first")


async def _source(table: str, scale: Scale, seed: int) -> AsyncIterator[bytes]:
    for piece in pieces(table, scale, seed):
        yield piece
