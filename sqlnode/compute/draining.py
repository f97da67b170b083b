"""A replica that is to go: who has asked for something gets it, if that does not take too long.

Gateways hear that it is down within `HEARD_S`, and send nothing more; so does the Service of the
replicas. What runs by then, and transactions that are open, may end; who is idle is not waited for.
"""

import asyncio
from typing import Final

import structlog

from sqlnode.postgres import Postgres

from .positions import SQL_FAILURES, connect

HEARD_S: Final = 1.0  # a gateway asks every 0.5 s
LOOK_S: Final = 0.2
# A login reads the catalogs. Where the storage nodes are gone already, as when a whole cluster is
# deleted, it hangs, and so does whatever we would wait for.
LOGIN_S: Final = 10.0

# Not ourselves, who are always there; nor gateways that look how far we are.
_BUSY: Final = """
    select count(*) from pg_stat_activity
    where backend_type = 'client backend' and state <> 'idle' and pid <> pg_backend_pid()
        and usename is distinct from 'seawall_gateway'
        and not (application_name = 'seawall agent' and client_addr is null)
"""

log = structlog.get_logger()


async def drain(postgres: Postgres, seconds: float) -> None:
    """Wait until nothing is asked any more, at most for so long; 0: not at all."""
    if not seconds:
        return
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    busy = 0
    try:
        async with asyncio.timeout(seconds):
            async with asyncio.timeout(LOGIN_S):
                sql = await connect(postgres)
            try:
                while True:
                    busy = await sql.fetchval(_BUSY)
                    if not busy and loop.time() - began_s >= HEARD_S:
                        break
                    await asyncio.sleep(LOOK_S)
            finally:
                sql.terminate()
    except SQL_FAILURES as error:  # a TimeoutError is one
        log.warning("statements are cut off", count=busy, reason=type(error).__name__)
        return
    log.info("drained", took_ms=round((loop.time() - began_s) * 1000))
