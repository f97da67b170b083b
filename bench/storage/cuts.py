"""How long a cut takes once replay is there: restartpoint, harvest, and storing 10,000 pages.

The table has one row a page and room for its next versions, so an UPDATE of 10,000 rows changes
10,000 pages and no index. The times are the keeper's own, from its log.
"""

from typing import Final

from bench.pagefault.machine import wait_for_quiet
from bench.pagefault.report import Measurement, Outcome
from bench.pagefault.workspace import Workspace, connected

from .cut_log import CutTold, cuts_told
from .world import World, WorldError, storage_world

PAGES: Final = 10_000
ROUNDS: Final = 7
ROUNDS_QUICK: Final = 3
OTHER_PAGES_MAX: Final = 100  # of maps, of catalogs
LINE: Final = "(select string_agg(md5(random()::text || j), '') from generate_series(i, i + 19) j)"


def measure_cuts(place: Workspace, *, quick: bool) -> Outcome:
    """Several cuts of the same size."""
    with storage_world(place) as world:
        with connected(world.primary) as session:
            # No index: a version that moved to another page would change that, too.
            session.execute("create table wide (id int, n int, line text) with (fillfactor = 10)")
            session.execute("alter table wide alter column line set storage plain")
            session.execute(
                f"insert into wide select i, 0, {LINE} from generate_series(1, {PAGES}) i".encode()  # noqa: S608  # our own text
            )
            session.execute("vacuum analyze wide")
        world.cut()
        cuts = [_cut(world, number) for number in range(ROUNDS_QUICK if quick else ROUNDS)]
    return Outcome(benchmark="cuts", settings={"pages": PAGES}, measurements=figures(cuts))


def _cut(world: World, number: int) -> CutTold:
    with connected(world.primary) as session:
        session.execute("update wide set n = %s", [number])
    wait_for_quiet()
    lsn = world.cut()
    told = cuts_told(world.store.log_of_this_start().splitlines())
    cut = next((cut for cut in told if cut.lsn == lsn), None)
    if cut is None:
        raise WorldError(f"the node's log says nothing of the cut at {lsn}")
    if not PAGES <= cut.pages <= PAGES + OTHER_PAGES_MAX:
        raise WorldError(f"the cut at {lsn} has {cut.pages} pages: not what was to be measured")
    return cut


def figures(cuts: list[CutTold]) -> list[Measurement]:
    """The bar, and its parts."""
    return [
        Measurement("cut_10000_pages_ms", "ms", tuple(cut.behind_replay_ms for cut in cuts)),
        Measurement("cut_restartpoint_ms", "ms", tuple(cut.restartpoint_ms for cut in cuts)),
        Measurement("cut_store_ms", "ms", tuple(cut.store_ms for cut in cuts)),
        Measurement("cut_replay_ms", "ms", tuple(cut.replay_ms for cut in cuts)),
        Measurement("cut_pages", "", tuple(float(cut.pages) for cut in cuts)),
    ]
