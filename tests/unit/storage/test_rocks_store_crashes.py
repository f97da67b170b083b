"""A process that is killed while it publishes leaves the cuts that it had published, and no others.

In scope: kill -9 at the steps of a publish and at any moment, in a process of its own. Out of
scope: power loss (what is synced before a publish returns was read off strace, see docs/adr/0013).
"""

import os
import select
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from unit.storage.crashing_store import BLOCKS, BRANCH, PATH, SETTINGS, expected, publish

from sqlnode.page_source import PageRange
from storage.rocks_store import RocksStore

ROOT = Path(__file__).parents[3]
STEPS = [("planned", 2), ("entry", 1), ("entry", 60), ("written", 3), ("ingested", 1),
         ("ingested", 5)]  # fmt: skip


def start(directory: Path, *fault: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    command = [sys.executable, "-m", "unit.storage.crashing_store", str(directory), *fault]
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, cwd=ROOT)


def check(directory: Path, *, returned: int) -> None:
    """All that was published is there, whole; at most the cut that was under way came besides."""
    with closing(RocksStore(directory, SETTINGS)) as store:
        cuts = store.cuts(BRANCH)
        newest = cuts[-1].seq if cuts else 0
        assert newest in (returned, returned + 1)
        for cut in cuts:
            (answer,) = store.read(BRANCH, cut.seq, [PageRange(PATH, 0, BLOCKS)])
            assert answer == b"".join(expected(cut.seq))
            assert store.contents(BRANCH, cut.seq).small_files == {"number": b"%d" % cut.seq}
        publish(store, newest + 1)
        while store.collect(BRANCH, pages_max=9) or store.stats(BRANCH).garbage_cuts:
            pass
        for cut in store.cuts(BRANCH):
            (answer,) = store.read(BRANCH, cut.seq, [PageRange(PATH, 0, BLOCKS)])
            assert answer == b"".join(expected(cut.seq))
        assert list((directory / "staging").iterdir()) == []


@pytest.mark.parametrize(("step", "count"), STEPS)
def test_a_publish_that_is_killed_at_a_step_is_all_or_nothing(
    tmp_path: Path, step: str, count: int
) -> None:
    with start(tmp_path, step, str(count)) as process:
        output, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL
    check(tmp_path, returned=len(output.split()))


def test_a_store_that_is_killed_again_and_again_loses_nothing(tmp_path: Path) -> None:
    returned = 0
    for lines in (3, 11, 6):
        with start(tmp_path) as process:
            assert process.stdout is not None
            for _ in range(lines):
                assert select.select([process.stdout], [], [], 60)[0]
                returned = int(process.stdout.readline())
            process.kill()
            rest = process.stdout.read().split(b"\n")[:-1]
            process.wait()
        returned = int(rest[-1]) if rest else returned
        check(tmp_path, returned=returned)
        returned += 1  # at least: `check` publishes one more
        with closing(RocksStore(tmp_path, SETTINGS)) as store:
            returned = store.cuts(BRANCH)[-1].seq
