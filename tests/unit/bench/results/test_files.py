"""Result files: what is written is read again, and whatever else is there is refused in a sentence.

In scope: JSON and Parquet, files that are no result files. Out of scope: what results mean.
"""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.bench.result_sets import hostile_result_set, result_set, trial, with_trials

from bench.results import files
from bench.results.files import (
    ResultError,
    decode_results,
    encoded,
    figure_rows,
    read_results,
    with_numbers_only,
    write_results,
)


@pytest.mark.parametrize("make", [result_set, hostile_result_set])
def test_what_is_written_is_read(make: Callable[[], Any], tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    result = make()
    document, table = write_results(result, tmp_path / "new" / "folder")
    assert read_results(document) == result
    assert read_results(document.parent) == result
    assert sorted(path.name for path in document.parent.iterdir()) == [document.name, table.name]


def test_parquet_has_every_figure_of_every_trial(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    result = result_set(rounds=2)
    _, path = write_results(result, tmp_path)
    table = parquet.read_table(path)
    assert table.to_pylist() == list(figure_rows(result))
    assert table.num_rows == sum(len(one.figures) for one in result.trials)
    assert json.loads(table.schema.metadata[b"machine"]) == result.machine
    assert json.loads(table.column("settings")[0].as_py()) == result.trials[0].settings


def test_parquet_of_nothing_has_the_same_columns(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    _, full = write_results(result_set(rounds=1), tmp_path / "full")
    _, empty = write_results(with_trials([]), tmp_path / "empty")
    assert parquet.read_schema(full).equals(parquet.read_schema(empty), check_metadata=False)


def test_without_pyarrow_the_results_are_written_and_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        sys.modules, "pyarrow.parquet", None
    )  # as Python does for what is not there
    result = result_set(rounds=1)
    with pytest.raises(ResultError, match=r"install the extra `bench`"):
        write_results(result, tmp_path)
    assert read_results(tmp_path) == result
    with pytest.raises(ResultError, match=r"install the extra `bench`"):
        files.require_pyarrow()


def test_what_is_no_number_is_left_out_and_told() -> None:
    result = with_trials([trial("stock", 0, tps=math.nan, p99_ms=2.0, gap_seconds=math.inf)])
    found = with_numbers_only(result)
    assert found.trials[0].figures == {"p99_ms": 2.0}
    assert found.failures == [
        "round 0 of stock, tps tpcb: gap_seconds is not a finite number.",
        "round 0 of stock, tps tpcb: tps is not a finite number.",
    ]
    assert with_numbers_only(found) == found


def test_json_has_a_line_for_each_trial() -> None:
    result = result_set(rounds=1)
    lines = encoded(result).decode().splitlines()
    assert decode_results(encoded(result)) == result
    assert sum(line.startswith('{"part":') for line in lines) == len(result.trials)
    assert '"seed": 1,' in lines


def document(**changes: object) -> bytes:
    plain = json.loads(msgspec.json.encode(result_set(rounds=1)))
    for path, value in changes.items():
        *way, last = path.split("__")
        place: Any = plain
        for step in way:
            place = place[int(step)] if step.isdigit() else place[step]
        if value is None:
            del place[last]
        else:
            place[last] = value
    return json.dumps(plain).encode()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is no result file"),
        (b"{", "is no result file"),
        (b"[]", "is no result file"),
        (b'"\xff"', "is no result file"),
        (b"{}", "has format 0, and this program reads 1"),
        (b'{"format": 1}', "missing required field `command`"),
        (b"[" * 100_000, "is no result file|nested too deeply"),
        (b'{"format": 1, "a": ' + b"[" * 100_000, "is no result file|nested too deeply"),
        (document(format=2), "has format 2.*use the version that wrote it"),
        (document(commit=None), "missing required field `commit`"),
        (document(trials__0__figures=None), r"missing required field `figures`"),
        (document(trials__0__figures__tps="fast"), "Expected `float`"),
        (document(trials__0__figures__tps=1).replace(b'"tps": 1,', b'"tps": NaN,'), "no result"),
        (document(trials__0__figures__tps=1).replace(b'"tps": 1,', b'"tps": 1e999,'), "no result"),
        (document(trials__0__round=-1), "has a negative number"),
        (document(trials__0__histogram=[[2, 1], [1, 1]]), "does not ascend"),
        (document(trials__0__histogram=[[2, 1], [2, 1]]), "does not ascend"),
        (document(trials__0__histogram=[[2, -1]]), "has a negative number"),
        (document(seed="x"), "Expected `int`"),
    ],
)
def test_what_is_no_result_file_is_refused_in_a_sentence(content: bytes, told: str) -> None:
    with pytest.raises(ResultError, match=told) as refusal:
        decode_results(content)
    assert "\n" not in str(refusal.value)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(content: bytes) -> None:
    with pytest.raises(ResultError):
        decode_results(content)


def test_refusal_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    with pytest.raises(ResultError, match=r"results\.json cannot be read: No such file"):
        read_results(tmp_path)
    path.write_bytes(b"{}")
    with pytest.raises(ResultError, match=rf"{path} has format 0"):
        read_results(tmp_path)


def test_file_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "results.json").write_bytes(document())
    monkeypatch.setattr(files, "BYTES_MAX", 1 << 10)
    with pytest.raises(ResultError, match="it is no result file"):
        read_results(tmp_path)


def test_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "results.json").mkdir()
    with pytest.raises(ResultError, match="cannot be written"):
        write_results(result_set(rounds=1), tmp_path)
