"""A classifier that has seen other texts says what a fresh one says, and keeps a bounded number.

The texts of these tests share skeletons: they differ in numbers, strings, comments and the ends of
words, so that each may be taken for another one if a key were too short.
"""

import string

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from unit.gateway.test_classification_effects import EFFECTS
from unit.gateway.test_classification_statements import (
    CATALOG,
    NEVER_AGAIN,
    READS,
    TRANSACTIONS,
    WRITES,
)

from gateway.classification import classifier as classifier_module
from gateway.classification.caches import Generations
from gateway.classification.classifier import Classifier, read

HEADS = [
    "SELECT a FROM t WHERE b =",
    "SELECT lower",
    "SELECT lower(",
    "SELECT a FROM t LIMIT",
    "SELECT a FROM t OFFSET",
    "SELECT a FROM t",
    "SELECT a FROM unlogged",
    "TABLE view",
    "SELECT a FROM t FOR UPDATE OF t",
    "SELECT a FROM t WHERE b = $",
    "SELECT a FROM t WHERE b = 'x",
    "SELECT a FROM t WHERE b = E'\\",
    'SELECT a FROM "t',
    "SELECT a FROM t -- b =",
    "SELECT a FROM t /* b =",
    "/* seawall.read = replica(",
    "/* seawall.read = auto */ SELECT a FROM t LIMIT",
    "SELECT $a",
    "SELECT 1.",
    "SELECT 1e",
    "SELECT 0x",
    "SELECT 1_",
    "SELECT",
    "SELECT -",
    "SELECT 1;",
    "SELECT nextval('s') +",
    "SELECT current_setting('app.",
    "SELECT current_setting('",
    "SELECT set_config('a.b', '1', false) LIMIT",
    "UPDATE t SET a = a +",
    "INSERT INTO t SELECT",
    "DELETE FROM t WHERE a <",
    "SET a.b =",
    "SET seawall.position =",
    "FETCH",
    "MOVE",
    "ROLLBACK TO a",
    "LISTEN a",
    "PREPARE p AS SELECT",
    "EXECUTE p",
    "DECLARE c CURSOR WITH HOLD FOR SELECT",
    "CREATE TEMP TABLE t",
    "VACUUM t",
    "EXPLAIN (ANALYZE",
    "EXPLAIN SELECT",
    "VALUES (1) LIMIT",
    "é =",
    "\x00 =",
]
TAILS = [
    "",
    " 1",
    "1",
    " 12345;",
    "2;",
    ";",
    " ; ",
    " 1 2",
    "1;2",
    " 7)",
    "1)",
    "');",
    "1');",
    "1a')",
    "ms) */ SELECT 1",
    "5ms) */ SELECT nextval('s')",
    "1.5",
    " -5",
    " 1e5",
    "\n1",
    "1\n2",
    " */ FROM t",
    "1$a$",
    "a1$",
    '1"',
    ", nextval('s')",
    " 1, nextval('s')",
    " 1 -- 2",
    " FALSE) SELECT 1",
    "; COMMIT 1",
    " 1; COMMIT",
    "port')",
    "x.y')",
    "tenant1')",
]


def all_texts() -> list[bytes]:
    return [(head + tail).encode() for head in HEADS for tail in TAILS]


def test_no_text_is_taken_for_another_one() -> None:
    forwards, backwards = Classifier(CATALOG), Classifier(CATALOG)
    expected = {text: read(text, CATALOG) for text in all_texts()}
    for text in [*expected, *expected]:
        assert forwards.classify(text) == expected[text], text
    for text in reversed(expected):
        assert backwards.classify(text) == expected[text] == backwards.classify(text), text


ALL_STATEMENTS = [
    *READS,
    *WRITES,
    *NEVER_AGAIN,
    *(text for text, _ in EFFECTS),
    *(text for text, _ in TRANSACTIONS),
]
MUTATIONS = st.tuples(
    st.integers(min_value=0, max_value=200),
    st.integers(min_value=0, max_value=3),
    st.sampled_from(
        ["", "1", "42", " ", " 7", "'", "'x'", "$1", "$", '"', ";", ".", "--", "/*", "a"]
    ),
)


def mutated(text: str, changes: list[tuple[int, int, str]]) -> bytes:
    for at, removed, added in changes:
        place = at % (len(text) + 1)
        text = text[:place] + added + text[place + removed :]
    return text.encode()


@given(
    st.sampled_from(ALL_STATEMENTS),
    st.lists(st.lists(MUTATIONS, max_size=3), min_size=2, max_size=6),
)
@settings(max_examples=100, deadline=None)
def test_variations_of_a_statement_are_told_apart(
    text: str, variations: list[list[tuple[int, int, str]]]
) -> None:
    classifier = Classifier(CATALOG)
    texts = [text.strip().encode(), *(mutated(text.strip(), changes) for changes in variations)]
    for variation in [*texts, *reversed(texts)]:
        assert classifier.classify(variation) == read(variation, CATALOG), variation


DIGITS_ANYWHERE = st.text(alphabet=string.digits, max_size=3)


@given(
    st.sampled_from(ALL_STATEMENTS), st.lists(DIGITS_ANYWHERE, min_size=4, max_size=4), st.data()
)
@example("SELECT lower(a), t FROM t", ["1", "", "", ""], None)
@settings(max_examples=100, deadline=None)
def test_digits_inside_of_words_are_told_apart(
    text: str, digits: list[str], data: st.DataObject | None
) -> None:
    """`lower1()` is no `lower()`, `unlogged` no `unlogged1`, `FOR UPDATE1` no lock."""
    classifier = Classifier(CATALOG)
    classifier.classify(text.strip().encode())
    changed = text.strip()
    for some in digits:
        limit = len(changed)
        at = limit // 2 if data is None else data.draw(st.integers(min_value=0, max_value=limit))
        changed = changed[:at] + some + changed[at:]
    for variation in (changed, changed + some, changed + " " + some, changed + ";"):
        body = variation.encode()
        assert classifier.classify(body) == read(body, CATALOG), body


def test_statements_with_other_numbers_are_not_parsed_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    classifier = Classifier(CATALOG)
    classifier.classify(b"SELECT a FROM t WHERE b = 1;")
    classifier.classify(b"UPDATE t SET a = 5 WHERE b = 'x' AND c = 2")
    monkeypatch.setattr(classifier_module, "read", None)  # parsing would fail from here on
    assert classifier.classify(b"SELECT a FROM t WHERE b = 99999;").reads_only
    assert classifier.classify(b"SELECT a FROM t WHERE b = 7").reads_only
    assert not classifier.classify(b"UPDATE t SET a = -7 WHERE b = 'y''z' AND c = 3").reads_only
    monkeypatch.setattr(classifier_module, "normalized", None)
    assert classifier.classify(b"SELECT a FROM t WHERE b = 5 ;").reads_only


def test_decision_about_a_constant_is_not_reused_for_another_one() -> None:
    classifier = Classifier(CATALOG)
    assert classifier.classify(b"SELECT current_setting('app.tenant')").reads_only
    assert not classifier.classify(b"SELECT current_setting('port')").reads_only
    assert classifier.classify(b"/* seawall.read = replica(1s) */ SELECT 1").mode is not None
    assert classifier.classify(b"/* seawall.read = replica(2s) */ SELECT 1").mode != (
        classifier.classify(b"/* seawall.read = replica(1s) */ SELECT 1").mode
    )


def test_cache_keeps_what_is_used_and_no_more_than_its_limits() -> None:
    cache: Generations[int] = Generations(entries_max=10, bytes_max=1000)
    cache.put(b"used", 1)
    for number in range(1000):
        cache.put(b"%d" % number, number)
        assert cache.get(b"used") == 1
        assert len(cache) <= 20
    assert cache.get(b"0") is None
    assert cache.get(b"999") == 999


def test_cache_is_bounded_in_bytes() -> None:
    cache: Generations[int] = Generations(entries_max=1000, bytes_max=100)
    cache.put(b"x" * 101, 1)
    assert cache.get(b"x" * 101) is None
    for number in range(50):
        cache.put(b"%040d" % number, number)
        assert len(cache) <= 4
    assert cache.get(b"%040d" % 49) == 49


@given(st.lists(st.integers(min_value=0, max_value=30), max_size=200))
def test_cache_gives_what_was_put_last_or_nothing(keys: list[int]) -> None:
    cache: Generations[int] = Generations(entries_max=5, bytes_max=1000)
    latest: dict[bytes, int] = {}
    for count, number in enumerate(keys, start=1):
        key = b"%d" % number
        assert cache.get(key) in {None, latest.get(key)}
        cache.put(key, count)
        latest[key] = count
        assert cache.get(key) == count
