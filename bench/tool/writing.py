"""Where a result goes: files for programs, a report for people."""

from pathlib import Path
from typing import Final

from bench.results.files import ResultError, write_results
from bench.results.record import ResultSet

REPORT_NAME: Final = "report.html"


def write(result: ResultSet, directory: Path, *, makes_report: bool) -> str:
    """Write it; where it is, for people."""
    written = [*write_results(result, directory)]
    if makes_report:
        written.append(write_report(result, directory))
    return "written: " + " ".join(map(str, written))


def write_report(result: ResultSet, directory: Path) -> Path:
    """The report alone."""
    from bench.report.html import page  # noqa: PLC0415  # loads what draws

    path = directory / REPORT_NAME
    try:
        path.write_text(page(result), encoding="utf-8")
    except OSError as error:
        raise ResultError(f"{path} cannot be written: {error.strerror or error}.") from error
    return path
