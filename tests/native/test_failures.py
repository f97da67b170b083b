"""Sources and brokers that fail: the call fails with an errno and a sentence, or succeeds late.

In scope: a source that is short, missing, damaged, raising or slow; a broker that is away, dead,
stopped or killed with a fault in flight; claims that were left behind; strangers on the socket.
After each failure the same call succeeds once the cause is mended, and never were wrong bytes
published.
Out of scope: full disks and damaged maps (test_damage).
"""

import random
import shutil
import signal
import socket
import struct
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from structlog.typing import EventDict

from native.harness import (
    Place,
    broker_process,
    counters,
    eventually,
    pages,
)
from native.sources import GatedSource, WrongSource, sound_page
from sqlnode.datadir import DataDirectoryError
from sqlnode.faults import REQUEST
from sqlnode.page_source import PageRange
from sqlnode.pagefault.block_map import BlockMap, BlockState

FILE = "base/5/16384"
CONTENT = pages(20)
FIRST = f"{zlib.crc32(CONTENT[:8192]):08x}"


def assert_nothing_was_published(place: Place) -> None:
    assert (place.compute.data / FILE).read_bytes() == bytes(len(CONTENT))
    with BlockMap(place.compute.block_map) as block_map:
        slot = block_map.find(FILE)
        assert slot is not None
        assert block_map.state(slot.number, 0) == BlockState.MISSING


def short(path: Path) -> None:
    path.write_bytes(b"")


def missing(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    ("spoil", "sentence"), [(short, "ends before block 0"), (missing, "cannot be read")]
)
def test_source_without_the_page_fails_the_read_until_it_is_restored(
    place: Place, agent_log: list[EventDict], spoil: Any, sentence: str
) -> None:
    place.lazy({FILE: CONTENT})
    spoil(place.source / FILE)
    with place.serve(), place.driver() as driver:
        driver.good(f"open f {FILE} rw")
        assert driver.run("pread f 0 8192").error == "EIO"
        assert "see the agent's log" in driver.said()
        assert sentence in str(agent_log)
        assert_nothing_was_published(place)
        (place.source / FILE).write_bytes(CONTENT)
        assert driver.good("pread f 0 8192").data == FIRST


def test_damaged_page_is_never_published(place: Place, agent_log: list[EventDict]) -> None:
    sound = b"".join(sound_page(seed, seed) for seed in range(20))
    place.lazy({FILE: sound})
    damaged = bytearray(sound)
    damaged[4000] ^= 1
    (place.source / FILE).write_bytes(damaged)
    with place.serve(verify_checksums=True), place.driver() as driver:
        driver.good(f"open f {FILE} rw")
        assert driver.run("pread f 0 8192").error == "EIO"
        assert "wrong checksum" in driver.said()
        assert f"gave {FILE} block 0 with a wrong checksum" in str(agent_log)
        assert_nothing_was_published(place)
        restored = place.root / "backup"
        restored.write_bytes(sound)
        restored.replace(place.source / FILE)
        assert driver.good("pread f 0 163840").data == f"{zlib.crc32(sound):08x}"


def test_right_page_in_the_wrong_place_is_damage(preloaded: Place) -> None:
    preloaded.lazy({FILE: b"".join(sound_page(seed, seed + 1) for seed in range(20))})
    with preloaded.serve(verify_checksums=True), preloaded.driver() as driver:
        driver.good(f"open f {FILE} rw")
        assert driver.run("pread f 0 8192").error == "EIO"


def test_segments_are_checked_with_their_place_in_the_relation(preloaded: Place) -> None:
    preloaded.lazy({FILE + ".2": sound_page(1, 2 * 131072), "pg_xact/0000": CONTENT})
    with preloaded.serve(verify_checksums=True), preloaded.driver() as driver:
        driver.good(f"open f {FILE}.2 rw")
        driver.good("pread f 0 8192")
        driver.good("open f pg_xact/0000 rw")  # the pages of an SLRU have no checksum
        driver.good("pread f 0 8192")


def too_few(ranges: Sequence[PageRange]) -> list[bytes]:
    return [b""] * (len(ranges) - 1)


def too_many(ranges: Sequence[PageRange]) -> list[bytes]:
    return [CONTENT[: wanted.blocks * 8192] for wanted in ranges] * 2


def too_short(ranges: Sequence[PageRange]) -> list[bytes]:
    return [CONTENT[: wanted.blocks * 8192 - 1] for wanted in ranges]


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (RuntimeError("no route"), "no route"),
        (too_few, "another number of ranges"),
        (too_many, "another number of ranges"),
        (too_short, "8191 bytes for 1 blocks"),
    ],
    ids=["raises", "too few", "too many", "too short"],
)
def test_source_that_breaks_its_contract_fails_the_read_only(
    preloaded: Place, agent_log: list[EventDict], answer: Any, sentence: str
) -> None:
    preloaded.lazy({FILE: CONTENT})
    source = WrongSource(preloaded.source, answer)
    with preloaded.serve(source), preloaded.driver() as driver:
        driver.good(f"open f {FILE} rw")
        assert driver.run("pread f 0 8192").error == "EIO"
        assert sentence in str(agent_log)
        assert_nothing_was_published(preloaded)
        source.wrong = False
        assert driver.good("pread f 0 8192").data == FIRST


@pytest.mark.parametrize("form", [bytes, bytearray, memoryview])
def test_pages_may_come_in_every_form(preloaded: Place, form: Any) -> None:
    sound = sound_page(1, 0)
    preloaded.lazy({FILE: sound})
    source = WrongSource(preloaded.source, lambda _: [form(sound)])
    with preloaded.serve(source, verify_checksums=True), preloaded.driver() as driver:
        driver.good(f"open f {FILE} rw")
        assert driver.good("pread f 0 8192").data == f"{zlib.crc32(sound):08x}"


def test_data_file_that_cannot_be_written_fails_the_read(preloaded: Place) -> None:
    preloaded.lazy({FILE: CONTENT})
    with preloaded.serve(), preloaded.driver() as driver:
        driver.good(f"open f {FILE} rw")
        (preloaded.compute.data / FILE).rename(preloaded.root / "aside")
        (preloaded.compute.data / FILE).mkdir()
        assert driver.run("pread f 0 8192").error == "EIO"
        (preloaded.compute.data / FILE).rmdir()
        (preloaded.root / "aside").rename(preloaded.compute.data / FILE)
        assert driver.good("pread f 0 8192").data == FIRST


def test_data_file_that_was_removed_by_hand_fails_the_read(preloaded: Place) -> None:
    preloaded.lazy({FILE: CONTENT})
    with preloaded.serve(), preloaded.driver() as driver:
        driver.good(f"open f {FILE} rw")
        (preloaded.compute.data / FILE).unlink()
        assert driver.run("pread f 0 8192").error == "EIO"


def test_claim_of_a_dead_process_is_taken_over(place: Place) -> None:
    place.lazy({FILE: CONTENT}, busy_wait_ms=20)
    with place.serve(), BlockMap(place.compute.block_map) as block_map, place.driver() as driver:
        slot = block_map.find(FILE)
        assert slot is not None
        assert block_map.adopt(slot.number, 0, 1) == (0, 1)
        driver.good(f"open f {FILE} rw")
        assert driver.good("pread f 0 8192").data == FIRST
        assert block_map.adopt(slot.number, 19, 1) == (0, 1)
        driver.good("ftruncate f 8192")  # waits for what is BUSY behind the new end
    assert counters(place.compute)["wait_timeouts"] == 2


def test_no_agent_at_all_is_an_error_with_a_sentence(place: Place) -> None:
    place.lazy({FILE: CONTENT}, link_wait_ms=50)
    with place.driver() as driver:
        driver.good(f"open f {FILE} rw")
        assert driver.run("pread f 0 8192").error == "EIO"
        assert "no agent listens; start it again" in driver.said()
        with place.serve():
            assert driver.good("pread f 0 8192").data == FIRST


def test_hint_without_an_agent_is_dropped(place: Place) -> None:
    place.lazy({FILE: CONTENT})
    with place.driver() as driver:
        driver.good(f"open f {FILE} rw")
        driver.good("posix_fadvise f 0 163840")
    assert counters(place.compute)["prefetches_dropped"] == 1
    assert_nothing_was_published(place)


def test_stopped_agent_is_given_up_and_believed_again(preloaded: Place) -> None:
    preloaded.lazy({FILE: CONTENT}, reply_wait_ms=100)
    log = preloaded.root / "broker.log"
    with (
        broker_process(preloaded.compute, preloaded.source, log=log) as broker,
        preloaded.driver() as driver,
    ):
        driver.good(f"open f {FILE} rw")
        broker.send_signal(signal.SIGSTOP)
        assert driver.run("pread f 0 8192").error == "EIO"
        assert "did not answer in time" in driver.said()
        broker.send_signal(signal.SIGCONT)
        assert driver.good("pread f 0 8192").data == FIRST


def test_fault_survives_the_death_of_the_agent(preloaded: Place) -> None:
    preloaded.lazy({FILE: CONTENT})
    log = preloaded.root / "broker.log"
    with preloaded.driver() as driver:
        driver.good(f"open f {FILE} rw")
        with broker_process(preloaded.compute, preloaded.source, log=log) as broker:
            driver.good("pread f 8192 8192")
            broker.send_signal(signal.SIGSTOP)
            driver.send("pread f 0 8192")
            eventually(lambda: counters(preloaded.compute)["fault_blocks"] >= 2)
        with broker_process(preloaded.compute, preloaded.source, log=log):
            assert driver.receive().data == FIRST


def test_agent_that_never_accepts_is_given_up(preloaded: Place) -> None:
    preloaded.lazy({FILE: CONTENT}, link_wait_ms=100, reply_wait_ms=300)
    with socket.socket(socket.AF_UNIX) as listener, preloaded.driver() as driver:
        listener.bind(str(preloaded.compute.socket))
        listener.listen(0)
        with socket.socket(socket.AF_UNIX) as first:  # fills the queue of connections
            first.connect(str(preloaded.compute.socket))
            driver.good(f"open f {FILE} rw")
            assert driver.run("pread f 0 8192").error == "EIO"
            assert "no agent listens" in driver.said()


def test_agent_that_hangs_up_on_everybody_is_given_up(preloaded: Place) -> None:
    preloaded.lazy({FILE: CONTENT}, reply_wait_ms=100)
    with socket.socket(socket.AF_UNIX) as listener, preloaded.driver() as driver:
        listener.bind(str(preloaded.compute.socket))
        listener.listen()
        thread = threading.Thread(target=hang_up, args=[listener])
        thread.start()
        driver.good(f"open f {FILE} rw")
        assert driver.run("pread f 0 8192").error == "EIO"
        assert "did not answer in time" in driver.said()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def hang_up(listener: socket.socket) -> None:
    while True:
        try:
            listener.accept()[0].close()
        except OSError:
            return


def test_second_agent_is_refused_and_the_first_goes_on(preloaded: Place) -> None:
    preloaded.lazy({FILE: CONTENT})
    with preloaded.serve(), preloaded.driver() as driver:
        with (
            pytest.raises(DataDirectoryError, match=r"served by another agent \(process \d+\)"),
            preloaded.serve(),
        ):
            pass
        driver.good(f"open f {FILE} rw")
        assert driver.good("pread f 0 8192").data == FIRST


def test_garbage_on_the_socket_harms_only_who_sends_it(preloaded: Place) -> None:
    preloaded.lazy({FILE: CONTENT})
    chance = random.Random(7)
    with preloaded.serve(), preloaded.driver() as driver:
        for _ in range(200):
            with socket.socket(socket.AF_UNIX) as stranger:
                stranger.connect(str(preloaded.compute.socket))
                stranger.sendall(garbage(chance))
        with socket.socket(socket.AF_UNIX) as dawdler:
            dawdler.connect(str(preloaded.compute.socket))
            dawdler.sendall(REQUEST.pack(1, 1, 0, 2, 0, 1)[:11])
            driver.good(f"open f {FILE} rw")
            assert driver.good("pread f 0 163840").data == f"{zlib.crc32(CONTENT):08x}"


def garbage(chance: random.Random) -> bytes:
    """Bytes, or requests of the right form with numbers that nobody should believe."""
    if chance.random() < 0.3:
        return chance.randbytes(chance.randrange(100))
    extremes = (0, 1, 2, 3, 7, 1023, 1024, 131071, 131072, 1 << 31, (1 << 32) - 1)
    words = [chance.choice(extremes) for _ in range(6)]
    words[1] = chance.choice((1, 1, 2, 3, 4))
    return struct.pack("=6I", *words)[: chance.choice((24, 24, 24, 23))]


def test_answers_to_requests_that_make_no_sense(preloaded: Place) -> None:
    preloaded.lazy({FILE: CONTENT})
    with preloaded.serve(), socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(str(preloaded.compute.socket))
        refused, gone = 5, 1
        for request, status in [
            ((7, 1, 0, 2, 0, 0), refused),
            ((8, 1, 0, 2, 0, 1025), refused),
            ((9, 3, 0, 2, 131071, 2), refused),
            ((10, 1, 0, 4, 0, 1), gone),
            ((11, 1, 5000, 1, 0, 1), gone),
            ((12, 1, 1 << 31, 1, 0, 1), gone),
            ((13, 1, 3, 0, 0, 1), gone),  # a slot that was never used
        ]:
            client.sendall(REQUEST.pack(*request))
            answer = struct.unpack("=2I", client.recv(8, socket.MSG_WAITALL))
            assert answer == (request[0], status)


def test_file_removed_while_its_page_is_on_the_way_is_gone(place: Place) -> None:
    place.lazy({FILE: CONTENT})
    source = GatedSource(place.source)
    with place.serve(source), place.driver() as reader, place.driver() as dropper:
        reader.good(f"open f {FILE} rw")
        reader.send("pread f 0 8192")
        eventually(lambda: source.reads == 1)
        dropper.good(f"unlink {FILE}")
        dropper.good(f"open f {FILE} rw,creat")
        dropper.good("ftruncate f 16384")
        source.open.set()
        assert reader.receive().error == "ENOENT"
        assert dropper.good("pread f 0 16384").data == f"{zlib.crc32(bytes(16384)):08x}"
    assert (place.compute.data / FILE).read_bytes() == bytes(16384)


def test_filling_brings_every_block(preloaded: Place) -> None:
    files = {FILE: pages(700), "base/5/2": pages(3, seed=2), "pg_xact/0000": pages(1, seed=3)}
    preloaded.lazy(files)
    with preloaded.serve() as served:
        assert served.call(served.broker.fill()) == 704
        for path, content in files.items():
            assert (preloaded.compute.data / path).read_bytes() == content
    shutil.rmtree(preloaded.source)
    with preloaded.driver() as driver:
        driver.good(f"open f {FILE} ro")
        driver.good(f"pread f 0 {len(files[FILE])}")


def test_nobody_claims_behind_the_new_end_during_a_truncation(place: Place) -> None:
    """A truncation waits for claims it finds; from then on the agent gets no new ones there."""
    place.lazy({FILE: CONTENT})
    with place.serve(), BlockMap(place.compute.block_map) as block_map, place.driver() as driver:
        slot = block_map.find(FILE)
        assert slot is not None
        assert block_map.adopt(slot.number, 19, 1) == (0, 1)
        driver.good(f"open f {FILE} rw")
        driver.send("ftruncate f 16384")
        eventually(lambda: counters(place.compute)["waits"] == 1)
        assert block_map.adopt(slot.number, 10, 4) == (0, 0)
        assert block_map.adopt(slot.number, 0, 2) == (0, 2)
        block_map.release(slot.number, slot.generation, 0, 2)
        block_map.release(slot.number, slot.generation, 19, 1)
        assert driver.receive().result == 0
        assert driver.good("pread f 0 8192").data == FIRST
        driver.good("ftruncate f 163840")
        assert driver.good("pread f 81920 8192").data == f"{zlib.crc32(bytes(8192)):08x}"
