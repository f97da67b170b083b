"""The judge of the log accepts a sound history and finds every way to break one.

In scope: the rules over records. Out of scope: reading them from disk.
"""

from pathlib import Path

import pytest
from fixtures.log_checker import (
    EpochGrant,
    Fact,
    Fork,
    JudgedLog,
    JudgedRecord,
    Other,
    Wal,
    fork_findings,
    log_findings,
    order_findings,
    surviving,
    wal_end,
    wal_image,
)

from fabric.lsn import SEGMENT_BYTES_DEFAULT, Lsn, Tli

ONE, TWO = Tli(1), Tli(2)
START = Lsn(3 * SEGMENT_BYTES_DEFAULT)
HISTORY = b"1\t0/3000100\tno recovery target specified\n"

# A primary writes 0x100 bytes; another one is granted the next epoch and promoted there.
STORY: tuple[Fact, ...] = (
    Other(),
    EpochGrant(1, "a"),
    Wal(ONE, START, b"x" * 0x80),
    Wal(ONE, START + 0x80, b"y" * 0x80),
    EpochGrant(2, "b"),
    Fork(TWO, START + 0x100, HISTORY),
    Wal(TWO, START, b"x" * 0x80 + b"y" * 0x80 + b"z" * 16),
)


def log_of(*facts: Fact, node: str = "log-1", terms: tuple[int, ...] = ()) -> JudgedLog:
    terms = terms or tuple(1 for _ in facts)
    before = (0, *terms)
    return JudgedLog(
        node,
        tuple(
            JudgedRecord(index, term, prev_term, fact)
            for index, (fact, term, prev_term) in enumerate(
                zip(facts, terms, before, strict=False), start=1
            )
        ),
    )


def orders(*facts: Fact) -> list[str]:
    return list(order_findings(log_of(*facts).records))


def test_sound_history_has_no_findings() -> None:
    logs = [log_of(*STORY), log_of(*STORY[:5], node="log-2")]
    assert log_findings(logs) == []
    assert list(fork_findings(logs[0].records)) == []


def test_log_that_reaches_furthest_survives() -> None:
    longer = log_of(Other(), Other(), Other(), node="longer")
    newer = log_of(Other(), Other(), terms=(1, 2), node="newer")
    assert surviving([longer, newer]).node == "newer"
    assert surviving([log_of(node="empty"), longer]).node == "longer"


def test_gap_in_the_log_is_found() -> None:
    records = log_of(*STORY).records
    (finding, *_) = log_findings([JudgedLog("log-1", records[:2] + records[3:])])
    assert finding == "log-1: record 4 follows record 2"


def test_record_that_names_another_term_before_it_is_found() -> None:
    records = (JudgedRecord(1, 2, 0, Other()), JudgedRecord(2, 2, 1, Other()))
    (finding,) = log_findings([JudgedLog("log-1", records)])
    assert "names term 1 as the one before it, which is 2" in finding


def test_term_that_shrinks_is_found() -> None:
    (finding,) = log_findings([log_of(Other(), Other(), terms=(2, 1))])
    assert finding == "log-1: record 2 of term 1 follows term 2"


def test_logs_that_differ_below_an_agreement_are_found() -> None:
    one = log_of(Other(), Wal(ONE, START, b"a"), Other())
    other = log_of(Other(), Wal(ONE, START, b"b"), Other(), node="log-2")
    assert log_findings([one, other]) == [
        "log-1 and log-2 agree on the term of record 3 but differ in record 2"
    ]


def test_tails_of_different_terms_may_differ() -> None:
    one = log_of(Other(), Wal(ONE, START, b"a"), terms=(1, 1))
    other = log_of(Other(), Wal(ONE, START, b"b"), terms=(1, 2), node="log-2")
    assert log_findings([one, other]) == []


@pytest.mark.parametrize("lsn", [START, START + 2])
def test_wal_that_does_not_continue_is_found(lsn: Lsn) -> None:
    (finding,) = orders(Wal(ONE, START, b"a"), Wal(ONE, lsn, b"b"))
    assert f"WAL at {lsn} follows WAL that ends at {START + 1}" in finding


def test_wal_of_a_fenced_primary_is_found() -> None:
    (finding,) = orders(*STORY[:5], Wal(ONE, START + 0x100, b"late"))
    assert "WAL of timeline 1 behind epoch 2 of b, which fenced it" in finding


def test_wal_of_an_old_timeline_behind_a_new_one_is_found() -> None:
    (finding,) = orders(*STORY, Wal(ONE, START + 0x100, b"late"))
    assert "WAL of timeline 1 behind WAL of timeline 2" in finding


def test_primary_that_gets_another_epoch_goes_on() -> None:
    assert orders(*STORY[:4], EpochGrant(2, "a"), Wal(ONE, START + 0x100, b"more")) == []


def test_fenced_primary_stays_fenced_when_it_is_granted_an_epoch_again() -> None:
    found = orders(*STORY[:5], EpochGrant(3, "a"), Wal(ONE, START + 0x100, b"late"))
    assert len(found) == 1


def test_epoch_that_does_not_grow_is_found() -> None:
    (finding,) = orders(EpochGrant(2, "a"), EpochGrant(2, "a"))
    assert "epoch 2 behind epoch 2" in finding


def test_timeline_without_a_beginning_is_found() -> None:
    (finding,) = orders(*STORY[:5], STORY[6])
    assert "WAL of timeline 2, which no record began" in finding


def test_timeline_that_skips_its_beginning_is_found() -> None:
    (finding,) = orders(*STORY[:6], Wal(TWO, START + 0x101, b"z"))
    assert "begins at 0/3000101, behind its fork at 0/3000100" in finding


def test_fork_beyond_the_end_is_found() -> None:
    (finding,) = orders(*STORY[:5], Fork(TWO, START + 0x101, HISTORY))
    assert "forks at 0/3000101, behind the end 0/3000100" in finding


def test_timeline_that_repeats_other_bytes_is_found() -> None:
    changed = (*STORY[:6], Wal(TWO, START, b"x" * 0xFF + b"?" + b"z"))
    (finding,) = fork_findings(log_of(*changed).records)
    assert finding.startswith("timeline 2 differs from timeline 1")


def test_image_holds_the_bytes_where_they_belong(tmp_path: Path) -> None:
    lsn = START + (SEGMENT_BYTES_DEFAULT - 2)
    facts = (Wal(ONE, lsn, b"abcd"), Fork(TWO, lsn, HISTORY), Wal(TWO, lsn, b"ab"))
    records = log_of(*facts).records
    image = wal_image(records, tmp_path / "wal")
    first = (image.directory / "000000010000000000000003").read_bytes()
    second = (image.directory / "000000010000000000000004").read_bytes()
    assert (first[-3:], second[:3]) == (b"\0ab", b"cd\0")
    assert len(first) == len(second) == SEGMENT_BYTES_DEFAULT
    assert (image.directory / "00000002.history").read_bytes() == HISTORY
    assert wal_end(records) == (TWO, lsn + 2)


def test_erased_image_ends_where_it_was_cut(tmp_path: Path) -> None:
    lsn = START + (SEGMENT_BYTES_DEFAULT - 2)
    image = wal_image(log_of(Wal(ONE, lsn, b"abcd")).records, tmp_path / "wal")
    image.erase_from(ONE, lsn + 1)
    (only,) = image.directory.iterdir()
    assert only.read_bytes()[-2:] == b"a\0"
