"""Every line has one form, whoever writes it, and no line shows a secret."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from fabric.logs import LogSettings, configure
from fabric.lsn import Lsn, Tli


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """Give the process its own logging back."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def configured(**settings: Any) -> io.StringIO:
    stream = io.StringIO()
    configure(LogSettings(**settings), component="agent", stream=stream)
    return stream


def test_both_kinds_of_logger_write_the_same_kind_of_line() -> None:
    stream = configured()
    structlog.get_logger().info("page served", block=7)
    logging.getLogger("library").warning("about %s", "something", extra={"block": 8})
    ours, theirs = lines(stream)
    assert (ours["event"], ours["block"], ours["level"]) == ("page served", 7, "info")
    assert (theirs["event"], theirs["block"]) == ("about something", 8)
    assert theirs["level"] == "warning"
    assert ours["component"] == theirs["component"] == "agent"
    assert ours["timestamp"].endswith("Z")
    assert theirs["timestamp"].endswith("Z")


def test_what_is_less_serious_than_the_level_is_left_out() -> None:
    stream = configured(level="warning")
    structlog.get_logger().info("quiet")
    logging.getLogger("library").info("quiet")
    structlog.get_logger().error("loud")
    assert [line["event"] for line in lines(stream)] == ["loud"]


def test_positions_are_printed_as_postgresql_prints_them() -> None:
    stream = configured()
    structlog.get_logger().info("cut", lsn=Lsn.parse("1/ABC"), tli=Tli(3), other={1, 2})
    (line,) = lines(stream)
    assert (line["lsn"], line["tli"]) == ("1/ABC", 3)


@pytest.mark.parametrize("form", ["json", "console"])
def test_secrets_are_masked_at_any_depth(form: str) -> None:
    stream = configured(format=form)
    structlog.get_logger().info(
        "login",
        password="hunter2",  # noqa: S106 - the example
        request={"user": "u", "Authorization": "hunter2", "list": [{"client_secret": "hunter2"}]},
        deep={"a": {"b": {"c": {"d": {"e": "hunter2"}}}}},
    )
    logging.getLogger("library").warning("login", extra={"api_token": "hunter2"})
    assert "hunter2" not in stream.getvalue()
    assert stream.getvalue().count("login") == 2


def test_an_exception_is_part_of_its_line() -> None:
    stream = configured()
    try:
        int("broken page")
    except ValueError:
        structlog.get_logger().exception("failed")
        logging.getLogger("library").exception("failed too")
    for line in lines(stream):
        assert "ValueError: invalid literal" in line["exception"]


def test_the_console_form_is_for_people() -> None:
    stream = configured(format="console")
    structlog.get_logger().info("page served", block=7)
    assert "page served" in stream.getvalue()
    assert not stream.getvalue().startswith("{")
