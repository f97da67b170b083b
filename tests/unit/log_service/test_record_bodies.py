"""The bodies of the records that are not WAL."""

from contextlib import suppress

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabric.ids import Epoch, NodeName, SystemIdentifier
from fabric.lsn import Lsn, Tli
from log_service.record import Kind, RecordError, make_record
from log_service.record_bodies import (
    MEMBERS_MAX,
    NOTE_BYTES_MAX,
    NOTE_NAME_CHARACTERS_MAX,
    PIN_NAME_CHARACTERS_MAX,
    EpochBody,
    Genesis,
    Holder,
    MemberInfo,
    Members,
    Note,
    Pin,
    Timeline,
    Trim,
    decode_body,
    encode_body,
    kind_of,
)

U64 = st.integers(0, 2**64 - 1)
LSNS = U64.map(Lsn)
TLIS = st.integers(1, 2**32 - 1).map(Tli)
NAMES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True).map(NodeName)
TEXT = st.text(max_size=60)
MEMBER_INFOS = st.builds(
    MemberInfo, member=st.integers(1, 2**63 - 1), node=NAMES, rpc=TEXT, pg=TEXT
)
HOLDERS = st.builds(Holder, name=NAMES, address=TEXT, user=TEXT, instance=st.integers(0, 2**63 - 1))
BODIES = st.one_of(
    st.builds(Members, st.lists(MEMBER_INFOS, max_size=MEMBERS_MAX).map(tuple)),
    st.builds(
        Genesis, U64.map(SystemIdentifier), TLIS, LSNS, st.integers(0, 2**40), TEXT, st.binary()
    ),
    st.builds(EpochBody, U64.map(Epoch), st.none() | HOLDERS),
    st.builds(Timeline, TLIS, st.binary(max_size=500)),
    st.builds(Trim, LSNS),
    st.builds(Pin, st.text(min_size=1, max_size=PIN_NAME_CHARACTERS_MAX), st.none() | LSNS),
    st.builds(
        Note,
        st.text(min_size=1, max_size=NOTE_NAME_CHARACTERS_MAX),
        st.none() | st.binary(max_size=500),
    ),
)
KINDS: dict[type[msgspec.Struct], Kind] = {
    Members: Kind.CONFIG,
    Genesis: Kind.GENESIS,
    EpochBody: Kind.EPOCH,
    Timeline: Kind.TIMELINE,
    Trim: Kind.TRIM,
    Pin: Kind.PIN,
    Note: Kind.NOTE,
}
INFO = MemberInfo(1, NodeName("log-1"), "tcp://127.0.0.1:1")


def decoded(wanted: type[msgspec.Struct], body: bytes) -> msgspec.Struct:
    record = make_record(index=9, term=1, prev_term=1, kind=KINDS[wanted], body=body)
    return decode_body(record, wanted)


@settings(deadline=None)
@given(BODIES)
def test_bodies_come_back_as_they_were(body: msgspec.Struct) -> None:
    again = decoded(type(body), encode_body(body))
    assert again == body
    assert [type(value) for value in msgspec.structs.astuple(again)] == [
        type(value) for value in msgspec.structs.astuple(body)
    ]


@settings(deadline=None)
@given(st.sampled_from(list(KINDS)), st.binary(max_size=100))
def test_arbitrary_bytes_are_a_body_or_a_record_error(
    wanted: type[msgspec.Struct], body: bytes
) -> None:
    with suppress(RecordError):
        decoded(wanted, body)


@settings(deadline=None)
@given(
    BODIES,
    st.sampled_from(list(KINDS)),
    st.recursive(
        st.none() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary() | st.floats(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    ),
    st.data(),
)
def test_wrong_values_are_a_record_error(
    body: msgspec.Struct, wanted: type[msgspec.Struct], value: object, data: st.DataObject
) -> None:
    fields = msgspec.msgpack.decode(encode_body(body))
    fields[data.draw(st.sampled_from(sorted(fields)))] = value
    with suppress(RecordError):
        decoded(wanted, msgspec.msgpack.encode(fields))


@pytest.mark.parametrize(
    "body",
    [
        Members((INFO,) * (MEMBERS_MAX + 1)),
        Members((msgspec.structs.replace(INFO, rpc="x" * 201),)),
        Members((msgspec.structs.replace(INFO, pg="x" * 201),)),
        Genesis(SystemIdentifier(1), Tli(1), Lsn(0), 1 << 20, "x" * 101),
        Pin("", None),
        Pin("x" * (PIN_NAME_CHARACTERS_MAX + 1), None),
        Note("", b""),
        Note("x" * (NOTE_NAME_CHARACTERS_MAX + 1), b""),
        Note("x", bytes(NOTE_BYTES_MAX + 1)),
        EpochBody(Epoch(1), Holder(NodeName("a"), "x" * 201)),
        EpochBody(Epoch(1), Holder(NodeName("a"), "x", "u" * 64)),
    ],
    ids=lambda body: type(body).__name__,
)
def test_every_limit_is_kept(body: msgspec.Struct) -> None:
    with pytest.raises(RecordError, match="is no"):
        decoded(type(body), encode_body(body))


def test_text_that_is_no_utf8_is_a_record_error() -> None:
    body = encode_body(Pin("backup", Lsn(1))).replace(b"backup", b"\xff\xfeckup")
    with pytest.raises(RecordError):
        decoded(Pin, body)


def test_deep_nesting_is_a_record_error() -> None:
    with pytest.raises(RecordError):
        decoded(Pin, b"\x81\xa1x" + b"\x91" * 100_000)


def test_a_newer_versions_field_is_ignored_and_a_missing_one_has_its_default() -> None:
    fields = msgspec.msgpack.decode(encode_body(EpochBody(Epoch(3))))
    del fields["holder"]
    fields["colour"] = "blue"
    assert decoded(EpochBody, msgspec.msgpack.encode(fields)) == EpochBody(Epoch(3))


def test_a_holder_of_an_older_version_is_one_of_any_instance() -> None:
    holder = Holder(NodeName("a"), "x")
    fields = msgspec.msgpack.decode(encode_body(EpochBody(Epoch(3), holder)))
    del fields["holder"]["instance"]
    assert decoded(EpochBody, msgspec.msgpack.encode(fields)) == EpochBody(Epoch(3), holder)


def test_the_largest_note_fits_into_a_record() -> None:
    body = Note("x" * NOTE_NAME_CHARACTERS_MAX, bytes(NOTE_BYTES_MAX))
    assert decoded(Note, encode_body(body)) == body


def test_every_kind_but_two_has_a_body() -> None:
    assert set(KINDS.values()) == set(Kind) - {Kind.WAL, Kind.NOOP}


@settings(deadline=None)
@given(BODIES)
def test_a_body_knows_its_kind(body: msgspec.Struct) -> None:
    assert kind_of(body) is KINDS[type(body)]
