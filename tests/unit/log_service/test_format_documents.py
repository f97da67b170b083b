"""The worked examples of docs/formats/log_record.md and raft_message.md are true, byte for byte.

In scope: what the pages show, encoded and decoded. Out of scope: everything else about the formats,
see test_record.py, test_record_bodies.py, test_raft_codec.py.
"""

import re
from pathlib import Path

from fabric.ids import Epoch, NodeName
from log_service.raft_codec import (
    APPEND_ENTRIES_MAX,
    GROUP_BYTES_MAX,
    MessageType,
    Rest,
    decode_header,
    decode_message,
    encode_message,
    entry_of,
)
from log_service.record import (
    HEADER_BYTES,
    RECORD_BODY_BYTES_MAX,
    Kind,
    Record,
    decode_records,
    make_record,
)
from log_service.record_bodies import EpochBody, Holder, decode_body, encode_body
from raft.messages import Append, AppendReply, Message, VoteRequest
from raft.types import Entry

FORMATS = Path(__file__).parents[3] / "docs" / "formats"
GROUP = b"demo.main"
GRANT = EpochBody(Epoch(2), Holder(NodeName("p"), "tcp://10.0.0.9:5432"))


def page(name: str) -> str:
    return (FORMATS / name).read_text()


def examples(name: str) -> dict[str, bytes]:
    """The dumps of a page by their headings."""
    found = re.findall(r"^### (.+?)\n.*?```hex\n(.*?)```", page(name), re.DOTALL | re.MULTILINE)
    return {title: bytes.fromhex(re.sub(r"#.*", "", dump)) for title, dump in found}


def wal_record() -> Record:
    return make_record(
        index=8, term=3, prev_term=3, kind=Kind.WAL, tli=1, lsn=0x1000028, body=b"WAL!"
    )


def record_of(entry: Entry) -> Record:
    assert isinstance(entry.ref, Record)
    return entry.ref


def encoded(message: Message | Rest) -> bytes:
    header, payload = encode_message(message, GROUP, record_of)
    return b"".join([header, *payload])


def test_examples_of_records_are_true() -> None:
    grant = make_record(index=9, term=3, prev_term=3, kind=Kind.EPOCH, body=encode_body(GRANT))
    written = {"Four bytes of WAL": wal_record(), "A new epoch": grant}
    shown = examples("log_record.md")
    assert shown == {
        title: bytes(record.header) + bytes(record.body) for title, record in written.items()
    }
    (read,) = decode_records(shown["A new epoch"])
    assert decode_body(read, EpochBody) == GRANT


def test_page_of_records_has_every_kind_and_limit() -> None:
    text = page("log_record.md")
    for kind in Kind:
        assert f"| {kind.name} | {kind:d} |" in text
    assert f"The header has {HEADER_BYTES} bytes" in text
    assert f"at most {RECORD_BODY_BYTES_MAX:,}" in text


def test_examples_of_messages_are_true() -> None:
    entry = entry_of(wal_record())
    written: dict[str, Message | Rest] = {
        "An entry": Append(
            sender=1, to=2, term=3, prev_index=7, prev_term=3, entries=(entry,), commit=7, context=5
        ),
        "Its acknowledgement": AppendReply(
            sender=2, to=1, term=3, match_index=8, hint_index=0, hint_term=0, context=5,
            rejected=False,
        ),
        "A pre-vote": VoteRequest(
            sender=2, to=1, term=4, last_index=8, last_term=3, is_pre=True, is_transfer=False
        ),
    }  # fmt: skip
    shown = examples("raft_message.md")
    assert shown == {title: encoded(message) for title, message in written.items()}
    reply = shown["Its acknowledgement"]
    group, kind, numbers = decode_header(reply)
    assert group == GROUP
    assert decode_message(kind, numbers, b"") == written["Its acknowledgement"]


def test_page_of_messages_has_every_type_and_limit() -> None:
    text = page("raft_message.md")
    for kind in MessageType:
        assert f"| {kind.name} | {kind:d} |" in text
    header_bytes = len(encode_message(Rest(sender=1, to=2, term=3, commit=4), b"", record_of)[0])
    assert f"{header_bytes} bytes and the name of the group" in text
    assert f"at most {APPEND_ENTRIES_MAX:,}" in text
    assert f"1 to {GROUP_BYTES_MAX} bytes" in text
