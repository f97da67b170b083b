"""What it costs to decide for each statement who may answer it.

pgbench -S through the gateway, by turns with all reads at the primary and with reads at replicas;
the difference of the gateway's processor time a query is what routing adds. Every text is another
one to a cache that knows nothing of constants: the number of the account is in it.

The classifier by itself is timed as well, with texts that it has seen.
"""

import argparse
import asyncio
import random
import time
from typing import Final

from bench.faults.target import TargetError
from bench.pagefault.report import Measurement, Outcome
from bench.pagefault.workspace import Workspace
from gateway.classification.catalog import Catalog
from gateway.classification.classifier import Classifier

from .load import SCALE, Load, Wanted, loaded, prepare
from .world import Stage, staged

CLIENTS: Final = 8
PAIRS: Final = 8
PAIRS_QUICK: Final = 2
ROUND_S: Final = 6
ROUND_QUICK_S: Final = 3
READ_MODES: Final = ("primary", "auto")
ACCOUNTS: Final = "pgbench_accounts"
STATISTICS_S: Final = 11.0  # after which idle backends have told what they read

CLASSIFIED: Final = 20_000
CLASSIFY_ROUNDS: Final = 7
ACCOUNT_MAX: Final = SCALE * 100_000


def measure_routing(place: Workspace, arguments: argparse.Namespace) -> Outcome:
    """The difference, and the classifier alone."""
    return asyncio.run(_routing(place, arguments))


async def _routing(place: Workspace, arguments: argparse.Namespace) -> Outcome:
    pairs, seconds = (PAIRS_QUICK, ROUND_QUICK_S) if arguments.quick else (PAIRS, ROUND_S)
    async with staged(place, arguments) as stage:
        if stage.gateway_name is None:
            raise TargetError("a pgbouncer does no routing")
        scale = await prepare(stage, is_quick=arguments.quick)
        await asyncio.sleep(STATISTICS_S)
        read_before = await stage.reads_by_replicas(ACCOUNTS)
        loads = await asyncio.to_thread(_pairs, stage, pairs, seconds)
        await asyncio.sleep(STATISTICS_S)
        read = await stage.reads_by_replicas(ACCOUNTS) - read_before
    if not read:
        raise TargetError("no replica was asked, so nothing was routed")
    per_query = {mode: tuple(one.cpu_us for one in loads[mode]) for mode in READ_MODES}
    added = tuple(b - a for a, b in zip(*per_query.values(), strict=True))
    asked = sum(one.per_s for one in loads["auto"]) * seconds
    return Outcome(
        benchmark="routing",
        settings={"clients": CLIENTS, "scale": scale, "pairs": pairs, "round_s": seconds},
        measurements=[
            Measurement("routing_us", "us", added),
            *(Measurement(f"routing_{m}_us", "us", per_query[m]) for m in READ_MODES),
            Measurement("routing_classifier_us", "us", classifier_us()),
            Measurement("routing_replica_share", "", (min(1.0, read / asked),)),
            *(
                Measurement(f"routing_{mode}_tps", "/s", tuple(one.per_s for one in loads[mode]))
                for mode in READ_MODES
            ),
        ],
    )


def _pairs(stage: Stage, pairs: int, seconds: int) -> dict[str, list[Load]]:
    """Rounds ABBA."""
    found: dict[str, list[Load]] = {mode: [] for mode in READ_MODES}
    for pair in range(pairs):
        for mode in READ_MODES if pair % 2 == 0 else reversed(READ_MODES):
            wanted = Wanted(
                mode="simple",
                clients=CLIENTS,
                seconds=seconds,
                options=f"-c seawall.read={mode}",
            )
            found[mode].append(loaded(stage, stage.gateway, wanted))
    return found


def classifier_us(count: int = CLASSIFIED, rounds: int = CLASSIFY_ROUNDS) -> tuple[float, ...]:
    """Microseconds a text of pgbench's, of a kind that was seen before; a figure for each round."""
    rng = random.Random(1)  # noqa: S311  # which accounts
    texts = [
        b"SELECT abalance FROM pgbench_accounts WHERE aid = %d;" % rng.randint(1, ACCOUNT_MAX)
        for _ in range(count)
    ]
    classifier = Classifier(Catalog.EMPTY)
    if not classifier.classify(texts[0]).reads_only:
        raise TargetError("the classifier says that pgbench's SELECT does not only read")
    found = []
    for _ in range(rounds):
        start_s = time.perf_counter()
        for text in texts:
            classifier.classify(text)
        found.append((time.perf_counter() - start_s) / count * 1e6)
    return tuple(found)
