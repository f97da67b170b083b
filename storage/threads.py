"""Work in a thread that is never left behind: whoever is cancelled waits for it to end.

A thread cannot be stopped. One that goes on after its caller has gone would use a store, or the
files of an engine, that are closed or deleted meanwhile.
"""

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what `work` returns; a cancellation takes effect when it has ended."""
    working = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        await asyncio.wait([working])
        if not working.cancelled():
            working.exception()  # nobody asks any more
        raise
