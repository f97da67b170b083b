"""What clients can send to hurt: depth, length, runs, strange bytes. Nothing crashes or takes long.

A crash of the parser's library would end the test run itself.
"""

import contextlib
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.gateway.test_classification_statements import CATALOG

from gateway.classification.classifier import Classifier, may_leave_something, read
from gateway.classification.parser import (
    NORMALIZED_BYTES_MAX,
    TEXT_BYTES_MAX,
    InvalidTextError,
    UnreadableTextError,
    normalized,
    parse,
)
from gateway.classification.statements import Pin

SECONDS_MAX = 5.0
"""Some tens of milliseconds are usual; the same texts took a minute without the limits."""

UNREADABLE = Pin("a statement that was too long to be read")


def nested(left: str, middle: str, right: str, size: int) -> bytes:
    levels = size // (len(left) + len(right))
    return (left * levels + middle + right * levels).encode()


def shapes(size: int) -> dict[str, bytes]:
    return {
        "parentheses": b"SELECT " + nested("(", "1", ")", size),
        "open parentheses": b"SELECT " + b"(" * size,
        "sums": b"SELECT 1" + b"+1" * (size // 2),
        "casts": b"SELECT 1" + b"::a" * (size // 3),
        "in": b"SELECT 1" + b" IN (1)" * (size // 7),
        "isnull": b"SELECT 1" + b" ISNULL" * (size // 7),
        "collate": b"SELECT 1" + b" COLLATE a" * (size // 10),
        "not": b"SELECT " + b"not " * (size // 4) + b"true",
        "signs": b"SELECT " + b"+ " * (size // 2) + b"1",
        "calls": b"SELECT " + nested("f(", "1", ")", size),
        "selects": nested("(SELECT ", "1", ")", size),
        "from": nested("SELECT * FROM (", "TABLE a", ") a", size),
        "case": b"SELECT " + nested("CASE WHEN ", "1", " THEN 1 END", size),
        "with": nested("WITH a AS (", "SELECT 1", ") SELECT 1", size),
        "arrays": b"SELECT " + nested("ARRAY[", "1", "]", size),
        "subscripts": b"SELECT a" + b"[1]" * (size // 3),
        "unions": b"SELECT 1" + b" UNION SELECT 1" * (size // 15),
        "joins": b"SELECT * FROM a" + b" NATURAL JOIN b" * (size // 15),
        "and or": b"SELECT 1" + nested(" AND (1 OR 1", "", ")", size),
        "statements": b"SELECT 1;" * (size // 9),
        "semicolons": b";" * size,
        "commas": b"SELECT 1" + b",1" * (size // 2),
        "comments": nested("/*", "", "*/", size) + b"SELECT 1",
        "comment marks": b"SELECT 1 " + b"/**/" * (size // 4),
        "pluses": b"SELECT " + b"+" * size + b"1",
        "plus minus": b"SELECT 1 " + b"+-" * (size // 2) + b"1",
        "operator": b"SELECT 1 " + b"@-" * (size // 2) + b"1",
        "dashes": b"SELECT 1 " + b"-" * size,
        "dollars": b"SELECT " + b"$a" * (size // 2),
        "strings": b"SELECT 'a'" + b"\n'a'" * (size // 4),
        "word": b"SELECT " + b"a" * size,
        "number": b"SELECT " + b"1" * size,
        "blanks": b"SELECT" + b" " * size + b"1",
        "dots": b"SELECT a" + b".a" * (size // 2),
        "set_config": b"SELECT 1" + b",set_config('a.b','c',true)" * (size // 27),
    }


@pytest.mark.parametrize("size", [2000, NORMALIZED_BYTES_MAX - 100, TEXT_BYTES_MAX - 100, 300_000])
@pytest.mark.parametrize("shape", shapes(10))
def test_deep_and_long_texts_neither_crash_nor_take_long(shape: str, size: int) -> None:
    text = shapes(size)[shape]
    started = time.process_time()
    found = Classifier(CATALOG).classify(text)
    assert time.process_time() - started < SECONDS_MAX
    if found.is_unknown:
        assert not found.reads_only
        assert not found.is_rerunnable


def test_normalizing_has_a_limit_of_its_own() -> None:
    text = b"SELECT 1" + b"+1" * NORMALIZED_BYTES_MAX
    assert normalized(text) is None
    assert normalized(b"SELECT 1 + 1") == b"SELECT $1 + $2"
    assert normalized(b"SELEC 1") is None


def test_text_that_is_too_long_pins_the_session_only_if_it_may_leave_something() -> None:
    rows = b",".join([b"(1, 'prepare to set a temp table')"] * 4000)
    plain = read(b"INSERT INTO t VALUES " + rows, CATALOG)
    assert plain.is_unknown
    assert plain.is_plain
    assert not plain.is_rerunnable
    upsert = read(b"INSERT INTO t VALUES " + rows + b" ON CONFLICT DO UPDATE SET a = 1", CATALOG)
    assert upsert.statements[0].effects == (UNREADABLE,)
    hidden = read(b"SELECT set_config('a.b', 'c', false)" + b" " * 100_000, CATALOG)
    assert hidden.statements[0].effects == (UNREADABLE,)
    assert not hidden.is_plain


@pytest.mark.parametrize(
    "text",
    [
        b"SeT x = 1",
        b"SELECT pg_advisory_lock(1)",
        b"CREATE TEMP TABLE t (a int)",
        b"SELECT 'a\\' , set_config(''x'', 1, false) --'",
        b"SELECT $$ ' $$; LISTEN a; --'",
        b"SELECT /* ' */ 1; LISTEN a; --'",
        b"SELECT 1 -- '\n; LISTEN a; --'",
        b"SELECT \"'\" FROM t; LISTEN a; --'",
        b"SELECT 'it''s' ; LISTEN a",
    ],
)
def test_word_of_a_statement_with_effects_is_found_in_what_cannot_be_parsed(text: bytes) -> None:
    assert may_leave_something(text)


@pytest.mark.parametrize("text", [b"SELECT 1", b"INSERT INTO t VALUES ('set', 'it''s a temp')"])
def test_words_in_strings_are_no_statements(text: bytes) -> None:
    assert not may_leave_something(text)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 'é'".encode("latin-1"),
        "SELECT E'表', 1".encode("shift_jis"),
        b"SELECT '\xc3'",
        b"SELECT 1 -- \xff",
        b"SELECT '\xed\xa0\x80'",
        b"SELECT 1\0",
    ],
)
def test_text_that_is_not_utf8_is_not_understood(text: bytes) -> None:
    found = Classifier(CATALOG).classify(text)
    assert found.is_unknown
    assert not found.reads_only


def test_text_in_latin1_that_sets_a_variable_pins_the_session() -> None:
    found = read("SET a.b = 'é'".encode("latin-1"), CATALOG)
    assert found.statements[0].effects == (UNREADABLE,)


def test_characters_of_all_lengths_are_read() -> None:
    found = read("SELECT 'é', '表', '🐘' AS \"né\" FROM \"tablé\"".encode(), CATALOG)
    assert found.reads_only


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_classified(text: bytes) -> None:
    found = Classifier(CATALOG).classify(text)
    assert found == read(text, CATALOG)


WORDS = """
    SELECT INSERT INTO UPDATE DELETE FROM WHERE VALUES SET FOR WITH AS ( ) , ; = + 1 'a' $1 t a f(
    now() nextval('s') ORDER BY GROUP HAVING UNION ALL * . :: int NOT NULL IN LIMIT OFFSET JOIN ON
    CASE WHEN THEN END RETURNING BEGIN COMMIT READ ONLY TEMP TABLE CREATE EXPLAIN ANALYZE DECLARE
    CURSOR HOLD FETCH COPY TO STDOUT LISTEN DISCARD ALL SHOW RESET ROLE LOCAL -- /* */
"""


@given(st.lists(st.sampled_from(WORDS.split()), max_size=25))
@settings(max_examples=200, deadline=None)
def test_any_words_are_classified_and_no_read_calls_an_unknown_function(words: list[str]) -> None:
    text = " ".join(words).encode()
    found = Classifier(CATALOG).classify(text)
    assert found == read(text, CATALOG)
    if found.reads_only and b"--" not in text and b"/*" not in text:
        assert b"f(" not in text
        assert b"nextval" not in text
        assert b"INTO" not in text or b"AS INTO" in text


@given(st.text(max_size=100))
def test_parser_gives_statements_or_one_of_its_two_errors(text: str) -> None:
    with contextlib.suppress(InvalidTextError, UnreadableTextError):
        statements = parse(text.encode(errors="surrogatepass"))
        assert all(isinstance(node_type, str) for node_type, _ in statements)


def test_parsing_leaves_no_memory_behind() -> None:
    texts = [b"SELECT a FROM t WHERE b = 'c'", b"SELEC", b"SELECT 1" + b"+1" * 600]

    def resident_pages() -> int:
        with open("/proc/self/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1])

    def some_rounds() -> None:
        for _ in range(100):
            for text in texts:
                read(text, CATALOG)
                normalized(text)

    some_rounds()
    before = resident_pages()
    some_rounds()
    some_rounds()
    # A tree of the last text alone has 85 KB: 200 of them would be 4,000 pages.
    assert resident_pages() - before < 1000
