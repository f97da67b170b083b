"""Raft's messages as bytes."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabric.frames import FrameError
from fabric.ids import NodeName
from log_service import raft_codec
from log_service.branch import Branch, encode_branch
from log_service.raft_codec import (
    GROUP_BYTES_MAX,
    Introduction,
    MessageType,
    NodeMessage,
    Rest,
    config_of,
    decode_header,
    decode_message,
    encode_message,
    entry_of,
)
from log_service.record import Kind, Record, RecordError, make_record
from log_service.record_bodies import MemberInfo, Members, encode_body
from raft.messages import (
    Append,
    AppendReply,
    Message,
    Restore,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)
from raft.types import Config, Entry, Snapshot

U64 = st.integers(0, 2**64 - 1)
WHO = {"sender": U64, "to": U64, "term": U64}
VOTER = MemberInfo(1, NodeName("log-1"), "tcp://127.0.0.1:1")
LEARNER = MemberInfo(2, NodeName("log-2"), "tcp://127.0.0.1:2", is_voter=False)


@st.composite
def entries(draw: st.DrawFn, *, prev_index: int, prev_term: int) -> tuple[Entry, ...]:
    """Entries that follow each other, as a leader has them."""
    found: list[Entry] = []
    for _ in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from([Kind.WAL, Kind.NOOP, Kind.CONFIG]))
        body = encode_body(Members((VOTER, LEARNER)))
        if kind is not Kind.CONFIG:
            body = draw(st.binary(max_size=50))
        term = prev_term + draw(st.integers(0, 1))
        record = make_record(
            index=prev_index + 1, term=term, prev_term=prev_term, kind=kind, body=body
        )
        found.append(entry_of(record))
        prev_index, prev_term = record.index, term
    return tuple(found)


@st.composite
def appends(draw: st.DrawFn) -> Append:
    index, term = draw(st.integers(0, 2**62)), draw(st.integers(0, 2**62))
    return Append(
        **{name: draw(numbers) for name, numbers in WHO.items()},
        prev_index=index,
        prev_term=term,
        entries=draw(entries(prev_index=index, prev_term=term)),
        commit=draw(U64),
        context=draw(U64),
    )


STATE = encode_branch(Branch(members=(VOTER, LEARNER)))
SNAPSHOTS = st.builds(Snapshot, U64, U64, st.just(config_of((VOTER, LEARNER))), st.just(STATE))
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(
        VoteRequest,
        **WHO,
        last_index=U64,
        last_term=U64,
        is_pre=st.booleans(),
        is_transfer=st.booleans(),
    ),
    st.builds(VoteReply, **WHO, is_pre=st.booleans(), granted=st.booleans()),
    appends(),
    st.builds(
        AppendReply,
        **WHO,
        match_index=U64,
        context=U64,
        rejected=st.booleans(),
        hint_index=U64,
        hint_term=U64,
    ),
    st.builds(Restore, **WHO, snapshot=SNAPSHOTS),
    st.builds(TimeoutNow, **WHO),
)


def record_of(entry: Entry) -> Record:
    assert isinstance(entry.ref, Record)
    return entry.ref


def encoded(message: Message | NodeMessage, group: bytes = b"demo.main") -> tuple[bytes, bytes]:
    header, payload = encode_message(message, group, record_of)
    return header, b"".join(payload)


def decoded(header: bytes, payload: bytes) -> Message | NodeMessage:
    _, kind, numbers = decode_header(header)
    return decode_message(kind, numbers, payload)


@settings(deadline=None)
@given(MESSAGES, st.binary(min_size=1, max_size=GROUP_BYTES_MAX))
def test_messages_come_back_as_they_were(message: Message, group: bytes) -> None:
    header, payload = encoded(message, group)
    assert decode_header(header)[0] == group
    assert decoded(header, payload) == message


@settings(deadline=None)
@given(U64, U64, U64, U64)
def test_rest_comes_back_as_it_was(sender: int, to: int, term: int, commit: int) -> None:
    rest = decoded(*encoded(Rest(sender=sender, to=to, term=term, commit=commit)))
    assert isinstance(rest, Rest)
    assert (rest.sender, rest.to, rest.term, rest.commit) == (sender, to, term, commit)


@settings(deadline=None)
@given(U64, U64)
def test_introduction_comes_back_as_it_was(sender: int, to: int) -> None:
    info = MemberInfo(sender, NodeName("log-1"), "tcp://127.0.0.1:7001", "tcp://127.0.0.1:5432")
    introduction = Introduction(sender, to, info)
    assert decoded(*encoded(introduction)) == introduction


@pytest.mark.parametrize(
    ("info", "sentence"),
    [
        (MemberInfo(2, NodeName("log-1"), "tcp://127.0.0.1:7001"), "introduces itself as 2"),
        (MemberInfo(1, NodeName("log-1"), "nowhere"), "an introduction: "),
    ],
)
def test_introduction_of_another_or_of_no_address_is_refused(
    info: MemberInfo, sentence: str
) -> None:
    with pytest.raises(FrameError, match=sentence):
        decoded(*encoded(Introduction(1, 3, info)))


@settings(deadline=None)
@given(st.binary(max_size=200), st.binary(max_size=200))
def test_arbitrary_bytes_are_a_message_or_a_frame_error(header: bytes, payload: bytes) -> None:
    with suppress(FrameError):
        decoded(header, payload)


@settings(deadline=None)
@given(MESSAGES, st.data())
def test_damaged_messages_are_a_message_or_a_frame_error(
    message: Message, data: st.DataObject
) -> None:
    header, payload = map(bytearray, encoded(message))
    for part in (header, payload):
        for _ in range(data.draw(st.integers(0, 2))):
            if part:
                part[data.draw(st.integers(0, len(part) - 1))] = data.draw(st.integers(0, 255))
    with suppress(FrameError):
        decoded(bytes(header), bytes(payload))


def test_a_damaged_record_in_a_message_is_found() -> None:
    record = make_record(index=1, term=1, prev_term=0, kind=Kind.WAL, body=b"WAL")
    append = Append(
        sender=1, to=2, term=1, prev_index=0, prev_term=0, entries=(entry_of(record),), commit=0
    )
    header, payload = encoded(append)
    with pytest.raises(FrameError, match="checksum"):
        decoded(header, payload[:-1] + b"X")


@pytest.mark.parametrize(("index", "prev_term"), [(2, 1), (4, 1), (3, 2)])
def test_entries_that_do_not_continue_are_refused(index: int, prev_term: int) -> None:
    record = make_record(index=index, term=2, prev_term=prev_term, kind=Kind.NOOP)
    append = Append(
        sender=1, to=2, term=2, prev_index=2, prev_term=1, entries=(entry_of(record),), commit=0
    )
    with pytest.raises(FrameError, match="does not continue entry 2"):
        decoded(*encoded(append))


def test_a_message_has_so_many_entries_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raft_codec, "APPEND_ENTRIES_MAX", 2)
    records = [make_record(index=index, term=1, prev_term=1, kind=Kind.NOOP) for index in (1, 2, 3)]
    many = tuple(map(entry_of, records))
    for count in (2, 3):
        append = Append(
            sender=1, to=2, term=1, prev_index=0, prev_term=1, entries=many[:count], commit=0
        )
        if count == 2:
            assert decoded(*encoded(append)) == append
        else:
            with pytest.raises(FrameError, match="more than 2 entries"):
                decoded(*encoded(append))


def test_a_header_names_a_group_of_at_most_two_names_and_a_dot() -> None:
    message = TimeoutNow(sender=1, to=2, term=3)
    decode_header(encoded(message, b"x" * GROUP_BYTES_MAX)[0])
    for group in (b"", b"x" * (GROUP_BYTES_MAX + 1)):
        with pytest.raises(FrameError, match="has a header of"):
            decode_header(encoded(message, group)[0])


@pytest.mark.parametrize(("position", "value"), [(0, 2), (1, 0), (1, 99)])
def test_another_version_or_type_asks_for_an_upgrade(position: int, value: int) -> None:
    header = bytearray(encoded(TimeoutNow(sender=1, to=2, term=3))[0])
    header[position] = value
    with pytest.raises(FrameError, match="upgrade the older node"):
        decode_header(bytes(header))


@pytest.mark.parametrize("state", [b"nonsense", STATE[:-1], STATE.replace(b"log-1", b"LOG-1")])
def test_a_damaged_snapshot_is_found(state: bytes) -> None:
    snapshot = Snapshot(5, 2, Config(frozenset({1})), state)
    with pytest.raises(FrameError, match="a raft snapshot"):
        decoded(*encoded(Restore(sender=1, to=2, term=3, snapshot=snapshot)))


def _twice(members: tuple[MemberInfo, ...]) -> bytes:
    return encode_body(Members(members))


@pytest.mark.parametrize(
    "body",
    [
        b"nonsense",
        _twice((VOTER, MemberInfo(1, NodeName("log-2"), "", is_voter=False))),
        _twice((MemberInfo(0, NodeName("log-1"), ""),)),
        _twice((MemberInfo(-1, NodeName("log-1"), ""),)),
        _twice((VOTER,)).replace(b"log-1", b"\xff\xff\xff\xff\xff"),
    ],
    ids=["nonsense", "voter and learner", "nobody", "negative", "no UTF-8"],
)
def test_a_configuration_that_cannot_be_is_found_before_the_core_sees_it(body: bytes) -> None:
    record = make_record(index=1, term=1, prev_term=0, kind=Kind.CONFIG, body=body)
    with pytest.raises(RecordError, match="entry 1"):
        entry_of(record)
    payload = bytes(record.header) + body
    numbers = (1, 2, 1, 0, 0, 0, 0, 0)
    with pytest.raises(FrameError):
        decode_message(MessageType.APPEND, numbers, payload)


def test_the_core_sees_who_votes_and_who_listens() -> None:
    record = make_record(
        index=1, term=1, prev_term=0, kind=Kind.CONFIG, body=encode_body(Members((VOTER, LEARNER)))
    )
    entry = entry_of(record)
    assert entry.config == Config(frozenset({1}), frozenset({2}))
    assert entry.size_bytes == record.size_bytes
