"""Replication commands: every form that PostgreSQL's own clients send, and a sentence for the rest.

The texts are what walreceiver, pg_receivewal and psql of 15 to 18 send.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.lsn import LSN_MAX, TLI_MAX, Lsn, Tli
from pgwire.errors import CommandError
from pgwire.replication import (
    Command,
    CreateReplicationSlot,
    DropReplicationSlot,
    IdentifySystem,
    ReadReplicationSlot,
    Show,
    StartReplication,
    TimelineHistory,
    format_command,
    parse_command,
)

LSN = st.integers(0, LSN_MAX).map(Lsn)
TLI = st.integers(1, TLI_MAX).map(Tli)
SLOT = st.from_regex(r"[a-z0-9_]{1,63}", fullmatch=True)
SETTING = st.from_regex(r"[a-z_][a-z0-9_]{0,20}(\.[a-z_][a-z0-9_]{0,20})?", fullmatch=True)
COMMAND: st.SearchStrategy[Command] = st.one_of(
    st.just(IdentifySystem()),
    st.builds(TimelineHistory, TLI),
    st.builds(StartReplication, st.none() | SLOT, LSN, st.none() | TLI),
    st.builds(CreateReplicationSlot, SLOT, st.booleans(), st.booleans()),
    st.builds(ReadReplicationSlot, SLOT),
    st.builds(DropReplicationSlot, SLOT, st.booleans()),
    st.builds(Show, SETTING),
)


@given(COMMAND)
def test_command_survives_its_text(command: Command) -> None:
    assert parse_command(format_command(command)) == command


@given(COMMAND, st.sampled_from([str.lower, str.swapcase]))
def test_keywords_do_not_care_for_case(command: Command, change: object) -> None:
    text = format_command(command)
    if not isinstance(command, Show):  # the only command with an unquoted name
        text = change(text) if '"' not in text else text.lower()  # type: ignore[operator]  # a str method
    assert parse_command(text) == command


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("IDENTIFY_SYSTEM;", IdentifySystem()),
        (" \n IDENTIFY_SYSTEM ", IdentifySystem()),
        ("TIMELINE_HISTORY 2", TimelineHistory(Tli(2))),
        (
            "START_REPLICATION 0/3000000 TIMELINE 1",
            StartReplication(None, Lsn.parse("0/3000000"), Tli(1)),
        ),
        (
            'START_REPLICATION SLOT "s1" 0/0 TIMELINE 1',
            StartReplication("s1", Lsn(0), Tli(1)),
        ),
        (
            "START_REPLICATION SLOT s_1 PHYSICAL FFFFFFFF/FFFFFFFF",
            StartReplication("s_1", Lsn(LSN_MAX)),
        ),
        ("START_REPLICATION AB/CD", StartReplication(None, Lsn.parse("AB/CD"))),
        (
            'CREATE_REPLICATION_SLOT "s" TEMPORARY PHYSICAL RESERVE_WAL',
            CreateReplicationSlot("s", temporary=True, reserve_wal=True),
        ),
        (
            'CREATE_REPLICATION_SLOT "s" PHYSICAL (RESERVE_WAL)',
            CreateReplicationSlot("s", reserve_wal=True),
        ),
        (
            "CREATE_REPLICATION_SLOT s PHYSICAL (reserve_wal 'true')",
            CreateReplicationSlot("s", reserve_wal=True),
        ),
        ("CREATE_REPLICATION_SLOT s PHYSICAL (RESERVE_WAL 0)", CreateReplicationSlot("s")),
        ("CREATE_REPLICATION_SLOT S PHYSICAL", CreateReplicationSlot("s")),
        ('DROP_REPLICATION_SLOT "s"', DropReplicationSlot("s")),
        ('DROP_REPLICATION_SLOT "s" WAIT', DropReplicationSlot("s", wait=True)),
        ('READ_REPLICATION_SLOT "s"', ReadReplicationSlot("s")),
        ("SHOW wal_segment_size", Show("wal_segment_size")),
        ("show My.Setting", Show("my.setting")),
    ],
)
def test_text_is_understood(text: str, command: Command) -> None:
    assert parse_command(text) == command


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "needs one of IDENTIFY_SYSTEM, .* SHOW where it has the end of the command"),
        ("SELECT 1", "needs one of .* where it has 'SELECT'"),
        ("BASE_BACKUP (LABEL 'x')", "needs one of .* where it has 'BASE_BACKUP'"),
        ('"IDENTIFY_SYSTEM"', "needs one of"),
        ("IDENTIFY_SYSTEM 1", "needs nothing more where it has '1'"),
        ("IDENTIFY_SYSTEM;;", "needs nothing more where it has ';'"),
        ("TIMELINE_HISTORY", "needs a timeline where it has the end"),
        ("TIMELINE_HISTORY 0", "a timeline must be"),
        ("TIMELINE_HISTORY 4294967296", "a timeline must be"),
        ("TIMELINE_HISTORY 11111111111", "not understood from '11111111111' on"),
        ("START_REPLICATION", "needs a position like 1/123ABCD"),
        ("START_REPLICATION 123456789/0", "not understood"),
        ("START_REPLICATION 0/1G", "not understood"),
        ("START_REPLICATION 0/0 TIMELINE", "needs a timeline"),
        ("START_REPLICATION SLOT 0/0", "needs the name of a slot"),
        ("START_REPLICATION SLOT s LOGICAL 0/0", "logical replication is not served"),
        ("CREATE_REPLICATION_SLOT s LOGICAL pgoutput", "logical replication is not served"),
        ("CREATE_REPLICATION_SLOT s", "needs PHYSICAL where it has the end"),
        ("CREATE_REPLICATION_SLOT s PHYSICAL (TWO_PHASE)", "needs RESERVE_WAL"),
        ("CREATE_REPLICATION_SLOT s PHYSICAL (RESERVE_WAL 2)", "needs true or false"),
        ("CREATE_REPLICATION_SLOT s PHYSICAL (RESERVE_WAL on", "needs a closing bracket"),
        ("CREATE_REPLICATION_SLOT s PHYSICAL EXPORT_SNAPSHOT", "needs nothing more"),
        ('READ_REPLICATION_SLOT "S"', "a slot's name is"),
        ('READ_REPLICATION_SLOT "a""b"', "needs nothing more where it has 'b'"),
        ('READ_REPLICATION_SLOT ""', "not understood"),
        (f"DROP_REPLICATION_SLOT {'s' * 64}", "a slot's name is"),
        ("DROP_REPLICATION_SLOT 's'", "needs the name of a slot where it has 's'"),
        ("SHOW 'x'", "needs the name of a setting"),
        ("SHOW x" + " " * 1024, "exceeds 1024 characters"),
        ("IDENTIFY_SYSTEM\0", "not understood"),
        ("IDENTIFY_SYSTEM -- comment", "not understood"),
    ],
)
def test_other_text_is_refused_with_a_reason(text: str, complaint: str) -> None:
    with pytest.raises(CommandError, match=complaint) as caught:
        parse_command(text)
    assert caught.value.sqlstate == "42601"


WORDS = st.sampled_from(
    [
        *("START_REPLICATION", "SLOT", "s", '"s"', "'s'", "0/0", "PHYSICAL", "TIMELINE", "1"),
        *("CREATE_REPLICATION_SLOT", "TEMPORARY", "RESERVE_WAL", "(", ")", ",", ";"),
        *("SHOW", "x.y", "DROP_REPLICATION_SLOT", "WAIT"),
    ]
)


@given(st.lists(WORDS, max_size=8).map(" ".join) | st.text(max_size=40))
def test_any_text_is_a_command_or_refused(text: str) -> None:
    try:
        command = parse_command(text)
    except CommandError:
        return
    assert parse_command(format_command(command)) == command


@pytest.mark.parametrize(
    "command",
    [
        ReadReplicationSlot('s" PHYSICAL'),
        CreateReplicationSlot(""),
        DropReplicationSlot("s;"),
        StartReplication("S", Lsn(0)),
        Show("x; DROP"),
        Show("x" * 200),
    ],
)
def test_command_that_cannot_be_written_is_our_mistake(command: Command) -> None:
    with pytest.raises(ValueError, match=r"slot's name|name of a setting"):
        format_command(command)
