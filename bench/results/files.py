"""Result files: all of a run as JSON, and its figures as Parquet for whoever likes tables.

`results.json` is what this project reads again. It may come from anybody, so whatever is wrong with
it is a sentence, not a traceback. `trials.parquet` has one row for each figure of each trial: its
columns are the same whatever was measured, so that the files of many runs can be read as one table.
"""

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from .record import FORMAT, ResultSet, Trial

if TYPE_CHECKING:
    import pyarrow

RESULTS_NAME: Final = "results.json"
TRIALS_NAME: Final = "trials.parquet"
BYTES_MAX: Final = 256 << 20  # a run of a day with a point a second of each trial is a tenth of it
TRIALS_MAX: Final = 100_000  # likewise
INSTALL_PYARROW: Final = (
    "pyarrow is missing: install the extra `bench` (pip install 'seawall[bench]')."
)


class ResultError(Exception):
    """A result file cannot be read or written; the text says what to do."""


class _Form(msgspec.Struct):
    format: int = 0


def require_pyarrow() -> None:
    """Refuse before anything is measured rather than afterwards."""
    try:
        import pyarrow.parquet  # noqa: F401, PLC0415  # optional, and slow to import
    except ImportError as error:
        raise ResultError(INSTALL_PYARROW) from error


def write_results(result: ResultSet, directory: Path) -> tuple[Path, Path]:
    """Write both files; the JSON first, so that a run is not lost to what is missing for the other.

    What is not a number has no place in JSON: it is left out, and is among the failures.
    """
    result = with_numbers_only(result)
    document = write_document(result, directory)
    require_pyarrow()
    import pyarrow as pa  # noqa: PLC0415  # as above
    from pyarrow import parquet  # noqa: PLC0415  # as above

    table = directory / TRIALS_NAME
    buffer = pa.BufferOutputStream()
    parquet.write_table(_table(result), buffer)
    _write(table, buffer.getvalue().to_pybytes())
    return document, table


def write_document(result: ResultSet, directory: Path) -> Path:
    """Write the JSON alone."""
    document = directory / RESULTS_NAME
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResultError(f"{directory} cannot be made: {error.strerror or error}.") from error
    _write(document, encoded(result))
    return document


def encoded(result: ResultSet) -> bytes:
    """As JSON, with a line a field and a line a trial: small, and its differences can be read."""
    fields = []
    for name in result.__struct_fields__:
        value = getattr(result, name)
        text = msgspec.json.encode(value)
        if name == "trials":
            text = b"[\n" + b",\n".join(map(msgspec.json.encode, value)) + b"\n]"
        fields.append(b'"' + name.encode() + b'": ' + text)
    return b"{\n" + b",\n".join(fields) + b"\n}\n"


def read_results(path: Path) -> ResultSet:
    """Read a result file, or the one in a directory."""
    if path.is_dir():
        path = path / RESULTS_NAME
    try:
        with path.open("rb") as file:
            content = file.read(BYTES_MAX + 1)
    except OSError as error:
        raise ResultError(f"{path} cannot be read: {error.strerror or error}.") from error
    if len(content) > BYTES_MAX:
        raise ResultError(f"{path} has more than {BYTES_MAX >> 20} MiB: it is no result file.")
    try:
        return decode_results(content)
    except ResultError as error:
        raise ResultError(f"{path} {error}") from error.__cause__


def decode_results(content: bytes) -> ResultSet:
    """Read what is in a result file. Pure."""
    try:
        form = msgspec.json.decode(content, type=_Form)
        if form.format != FORMAT:
            raise ResultError(
                f"has format {form.format}, and this program reads {FORMAT}:"
                " use the version that wrote it."
            )
        result = msgspec.json.decode(content, type=ResultSet)
    except RecursionError as error:
        raise ResultError("is nested too deeply: it is no result file.") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ResultError(f"is no result file: {_plain(error)}.") from error
    if wrong := next(_wrong(result), ""):
        raise ResultError(f"is no result file: {wrong}.")
    return result


def with_numbers_only(result: ResultSet) -> ResultSet:
    """Without figures that are not finite; each of them is a failure."""
    failures = list(result.failures)
    trials = []
    for trial in result.trials:
        unfit = sorted(name for name, value in trial.figures.items() if not math.isfinite(value))
        failures += [f"{_place(trial)}: {name} is not a finite number." for name in unfit]
        figures = {name: value for name, value in trial.figures.items() if name not in unfit}
        trials.append(msgspec.structs.replace(trial, figures=figures))
    fit = [judgement for judgement in result.judgements if math.isfinite(judgement.value)]
    failures += [
        f"The bar {judgement.name} was held against no finite number."
        for judgement in result.judgements
        if not math.isfinite(judgement.value)
    ]
    return msgspec.structs.replace(result, trials=trials, judgements=fit, failures=failures)


def figure_rows(result: ResultSet) -> Iterator[dict[str, Any]]:
    """What is in the Parquet file: a row for each figure of each trial."""
    for trial in result.trials:
        for name, value in trial.figures.items():
            yield {
                "part": trial.part,
                "workload": trial.workload,
                "clients": trial.clients,
                "target": trial.target,
                "round": trial.round,
                "order": trial.order,
                "figure": name,
                "value": float(value),
                "others_cores": trial.others_cores,
                "settings": _json(trial.settings),
                "commit": result.commit,
                "seed": result.seed,
                "started_at": result.started_at,
                "is_quick": result.is_quick,
            }


def _table(result: ResultSet) -> "pyarrow.Table":
    import pyarrow as pa  # noqa: PLC0415  # optional, and slow to import

    schema = pa.schema(
        {
            **dict.fromkeys(("part", "workload"), pa.string()),
            "clients": pa.int64(),
            "target": pa.string(),
            **dict.fromkeys(("round", "order"), pa.int64()),
            "figure": pa.string(),
            **dict.fromkeys(("value", "others_cores"), pa.float64()),
            **dict.fromkeys(("settings", "commit"), pa.string()),
            "seed": pa.int64(),
            "started_at": pa.string(),
            "is_quick": pa.bool_(),
        },
        metadata={"machine": _json(result.machine), "command": _json(result.command)},
    )
    return pa.Table.from_pylist(list(figure_rows(result)), schema=schema)


def _wrong(result: ResultSet) -> Iterator[str]:
    """What the types do not say, a clause each."""
    if len(result.trials) > TRIALS_MAX:
        yield f"it has more than {TRIALS_MAX} trials"
    for trial in result.trials:
        if trial.round < 0 or trial.order < 0 or trial.clients < 0:
            yield f"{_place(trial)} has a negative number"
        uppers = [upper for upper, _ in trial.histogram]
        if uppers != sorted(set(uppers)) or (uppers and uppers[0] < 0):
            yield f"the histogram of {_place(trial)} does not ascend"
        if any(count < 0 for _, count in trial.histogram):
            yield f"the histogram of {_place(trial)} has a negative number"
        if any(point.transactions < 0 or point.errors < 0 for point in trial.series):
            yield f"the series of {_place(trial)} has a negative number"


def _place(trial: Trial) -> str:
    return f"round {trial.round} of {trial.target}, {trial.part} {trial.workload}"


def _plain(error: Exception) -> str:
    return str(error).rstrip(".")


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all: a report that is open may be read again at any time."""
    beside = path.with_name(f".{path.name}.new")
    try:
        beside.write_bytes(content)
        os.replace(beside, path)
    except OSError as error:
        raise ResultError(f"{path} cannot be written: {error.strerror or error}.") from error
