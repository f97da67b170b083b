"""Which blocks a compute lets go of: proofs, sightings, files, the hand. All of it is pure.

Out of scope: what the library sees in a page (tests/native/test_drop).
"""

import pytest

from fabric.lsn import Lsn
from sqlnode.compute.cache_bound import (
    Facts,
    Hand,
    Proof,
    Proofs,
    Sightings,
    blocks_over,
    candidates,
    is_main_fork,
    is_watched,
)
from sqlnode.pagefault.block_map import BLOCK_BYTES, Slot, SlotState

MEBI = 1 << 20
PATH = "base/5/16384"


def facts(position: int, *workers: str, in_recovery: bool = False) -> Facts:
    return Facts(Lsn(position), in_recovery, frozenset(workers))


def slot(number: int, path: str = PATH, *, is_new: bool = False, missing: int = 0) -> Slot:
    return Slot(
        number=number,
        generation=2,
        state=SlotState.LIVE,
        path=path,
        missing=missing,
        dirty=0,
        taken=0,
        is_new=is_new,
        low=None,
        taken_is_new=False,
        taken_low=None,
    )


def proof_of(lsn: int, **blocks: int) -> Proof:
    return Proof(Lsn(lsn), {name.replace("__", "/"): count for name, count in blocks.items()})


def proved(proofs: Proofs) -> int:
    return 0 if proofs.proved is None else int(proofs.proved.lsn)


# Proofs.


def test_cut_is_proved_once_all_transactions_of_its_time_have_ended() -> None:
    proofs = Proofs()
    proofs.begin(Lsn(100), {})
    proofs.look(facts(150, "3/1", "4/1"))
    assert proved(proofs) == 0
    proofs.look(facts(160, "4/1", "5/1"))
    assert proved(proofs) == 0
    proofs.look(facts(170, "5/1", "6/1"))
    assert proved(proofs) == 100


def test_cut_is_proved_at_once_where_nobody_works_or_everything_comes_of_wal() -> None:
    for answer in (facts(100), facts(100, "3/1", in_recovery=True)):
        proofs = Proofs()
        proofs.begin(Lsn(100), {})
        proofs.look(answer)
        assert proved(proofs) == 100


@pytest.mark.parametrize("in_recovery", [True, False])
def test_cut_that_is_ahead_proves_nothing(in_recovery: bool) -> None:
    proofs = Proofs()
    proofs.begin(Lsn(100), {})
    proofs.look(facts(99, in_recovery=in_recovery))
    assert proved(proofs) == 0
    proofs.look(facts(100, in_recovery=in_recovery))
    assert proved(proofs) == 100


def test_transaction_that_was_there_before_the_cut_was_known_counts() -> None:
    proofs = Proofs()
    proofs.look(facts(150, "9/9"))
    proofs.begin(Lsn(100), {})
    proofs.look(facts(150, "3/1"))
    proofs.look(facts(150, "3/1"))
    assert proved(proofs) == 0


def test_older_proof_holds_while_a_newer_cut_is_on_trial() -> None:
    proofs = Proofs()
    assert proofs.wants(Lsn(100))
    proofs.begin(Lsn(100), {})
    assert not proofs.wants(Lsn(200))
    proofs.look(facts(300))
    assert not proofs.wants(Lsn(100))
    assert proofs.wants(Lsn(200))
    proofs.begin(Lsn(200), {})
    proofs.look(facts(300, "3/1"))
    assert proved(proofs) == 100
    proofs.look(facts(300))
    assert proved(proofs) == 200


# Files.


def paths(slots: list[Slot], proof: Proof, sightings: Sightings | None = None) -> list[str]:
    return [found.path for found, _ in candidates(slots, proof, sightings or Sightings())]


def test_files_of_the_cut_are_candidates_up_to_their_length_there() -> None:
    proof = proof_of(100, base__5__1=7, base__5__2=9)
    assert candidates([slot(1, "base/5/1"), slot(2, "base/5/3")], proof, Sightings()) == [
        (slot(1, "base/5/1"), 7)
    ]


def test_nothing_is_won_by_a_block_or_by_what_is_missing_already() -> None:
    proof = proof_of(100, base__5__1=1, base__5__2=9, base__5__3=9)
    slots = [slot(1, "base/5/1"), slot(2, "base/5/2", missing=9), slot(3, "base/5/3", missing=8)]
    assert paths(slots, proof) == ["base/5/3"]


def test_unlogged_relations_are_none_by_whichever_list() -> None:
    proof = Proof(Lsn(100), {"base/5/1": 9, "base/5/1.1": 9, "base/5/2": 9, "base/5/2_init": 1})
    slots = [slot(1, "base/5/1"), slot(2, "base/5/1.1"), slot(3, "base/5/2")]
    assert paths(slots, proof) == ["base/5/1", "base/5/1.1"]
    assert paths([*slots, slot(4, "base/5/1_init")], proof) == []


@pytest.mark.parametrize(
    ("path", "is_one"),
    [
        ("base/5/16384", True),
        ("base/5/16384.12", True),
        ("global/1262", True),
        ("pg_tblspc/16400/PG_15_202209061/5/16385.1", True),
        ("base/5/16384_fsm", False),
        ("base/5/16384_vm", False),
        ("base/5/16384_vm.1", False),
        ("base/5/16384_init", False),
        ("pg_xact/0000", False),
        ("pg_multixact/members/0001", False),
        ("base/5/t3_16384", False),
    ],
)
def test_only_main_forks(path: str, is_one: bool) -> None:
    assert is_main_fork(path) is is_one


def test_new_file_is_the_cuts_only_if_it_was_seen_before_the_cut() -> None:
    proof = proof_of(100, base__5__16384=9)
    new = slot(1, is_new=True)
    sightings = Sightings()
    assert paths([new], proof, sightings) == []
    sightings.note([new], Lsn(101))
    assert paths([new], proof, sightings) == []
    sightings = Sightings()
    sightings.note([new], Lsn(100))
    sightings.note([new], Lsn(500))
    assert paths([new], proof, sightings) == [PATH]


def test_another_file_of_the_slot_is_seen_anew() -> None:
    first, second = slot(1, is_new=True), slot(1, is_new=True)
    second = Slot(**{name: getattr(second, name) for name in Slot.__slots__} | {"generation": 4})
    sightings = Sightings()
    sightings.note([first], Lsn(50))
    sightings.note([second], Lsn(150))
    assert not sightings.is_known_at(second, Lsn(100))
    assert not sightings.is_known_at(first, Lsn(100))  # it is gone


# How much, and where.


def test_trimming_goes_below_the_bound_and_only_from_above_it() -> None:
    assert blocks_over(100 * MEBI, 100 * MEBI) == 0
    blocks = blocks_over(100 * MEBI + 1, 100 * MEBI)
    assert 90 * MEBI - BLOCK_BYTES < 100 * MEBI + 1 - blocks * BLOCK_BYTES <= 90 * MEBI
    assert [is_watched(used * MEBI, 100 * MEBI) for used in (74, 75)] == [False, True]


def test_hand_goes_round_once_from_where_it_stopped() -> None:
    files = [(slot(1), 10), (slot(3), 20), (slot(5), 5)]
    found = Hand(3, 8).ordered(files)
    assert [(file.number, first, end) for file, first, end in found] == [
        (3, 8, 20), (5, 0, 5), (1, 0, 10), (3, 0, 8),
    ]  # fmt: skip


def test_hand_stands_on_a_file_that_is_gone_or_shorter() -> None:
    files = [(slot(1), 10), (slot(5), 5)]
    gone = Hand(3, 8).ordered(files)
    assert [(file.number, first, end) for file, first, end in gone] == [(5, 0, 5), (1, 0, 10)]
    shorter = Hand(1, 50).ordered(files)
    assert [(file.number, first, end) for file, first, end in shorter] == [
        (1, 10, 10), (5, 0, 5), (1, 0, 10),
    ]  # fmt: skip
