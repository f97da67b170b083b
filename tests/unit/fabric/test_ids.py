"""An id cannot be made from a bad value, neither directly nor by decoding one."""

from pathlib import Path

import msgspec
import pytest

from fabric.codec import decode_hook, encode_hook
from fabric.ids import BranchName, ClusterName, CutSeq, Epoch, NodeName, Role, SystemIdentifier
from fabric.lsn import Lsn, Tli

NAMES = [BranchName, ClusterName, NodeName]
NUMBERS = [CutSeq, Epoch, SystemIdentifier]


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("text", ["a", "0", "main", "a-b--c", "x" * 63])
def test_a_dns_label_is_a_name(kind: type[str], text: str) -> None:
    assert kind(text) == text


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("text", ["", "-a", "a-", "A", "a.b", "a_b", "a/b", "é", "a\n", "x" * 64])
def test_what_is_not_a_dns_label_is_no_name(kind: type[str], text: str) -> None:
    with pytest.raises(ValueError, match="name is 1 to 63"):
        kind(text)


@pytest.mark.parametrize("kind", NUMBERS)
def test_numbers_fit_64_bits(kind: type[int]) -> None:
    assert kind(0) == 0
    assert str(kind(2**64 - 1)) == "18446744073709551615"
    for value in (-1, 2**64):
        with pytest.raises(ValueError, match="2\\^64"):
            kind(value)


def test_epochs_and_cuts_only_grow() -> None:
    assert Epoch(1).next() == Epoch(2)
    assert type(CutSeq(1).next()) is CutSeq


class Everything(msgspec.Struct):
    """One field of each type that crosses an edge."""

    lsn: Lsn
    tli: Tli
    epoch: Epoch
    cut: CutSeq
    system: SystemIdentifier
    cluster: ClusterName
    branch: BranchName
    node: NodeName
    role: Role
    path: Path


def test_every_type_survives_the_wire() -> None:
    value = Everything(
        Lsn(2**64 - 1),
        Tli(3),
        Epoch(1),
        CutSeq(2),
        SystemIdentifier(7_000_000_000_000_000_000),
        ClusterName("blue"),
        BranchName("main"),
        NodeName("n1"),
        Role.LOG,
        Path("/data"),
    )
    data = msgspec.msgpack.encode(value, enc_hook=encode_hook)
    copy = msgspec.msgpack.decode(data, type=Everything, dec_hook=decode_hook)
    assert copy == value
    fields = Everything.__struct_fields__
    assert [type(getattr(copy, f)) for f in fields] == [type(getattr(value, f)) for f in fields]


@pytest.mark.parametrize(
    ("wanted", "value"),
    [(Lsn, -1), (Lsn, "0/1"), (Lsn, True), (Tli, 0), (BranchName, "-"), (BranchName, 1),
     (Epoch, 1.5), (Path, None), (Role, "king")],
)  # fmt: skip
def test_a_wrong_value_is_a_validation_error(wanted: type, value: object) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(value, wanted, dec_hook=decode_hook)


def test_a_type_of_another_sort_is_refused_as_our_mistake() -> None:
    with pytest.raises(NotImplementedError):
        msgspec.msgpack.encode(object(), enc_hook=encode_hook)
