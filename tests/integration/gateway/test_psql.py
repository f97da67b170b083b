"""psql says the same through the gateway as to the server: \\d, \\copy, errors, several statements.

In scope: what an operator does with psql, including Ctrl-C. Out of scope: the content of frames,
see test_errors.py.
"""

from __future__ import annotations

import signal
import subprocess
from typing import TYPE_CHECKING

import pytest
from fixtures.servers import server_with
from fixtures.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from fixtures.gateway_world import Address

pytestmark = pytest.mark.postgres

DEADLINE_S = 60.0
ENDED_BY_USER = 3

SCRIPT = """
create table {table} (a int primary key, b text);
insert into {table} select i, 'row ' || i from generate_series(1, 1000) i;
\\copy {table} from stdin
2000\tfrom the client
\\.
copy {table} from stdin;
2001\tfrom the client, too
\\.
select count(*) as "rows" from {table};
\\gdesc
select 1/0;
listen news; notify news, 'extra';
set client_encoding = latin1;
select 'caf' || chr(233);
set client_encoding = utf8;
\\set FETCH_COUNT 100
select sum(a) from {table};
select a from {table} where a % 200 = 0 order by a;
select 1 as one, 2 as two \\gset
select :one + :two as three;
select 'bound ' || $1 \\bind parameter \\g
begin \\; select 'in a batch' \\; commit;
"""


@pytest.fixture(scope="module")
def program() -> Path:
    return server_with("psql").bin_dir / "psql"


def psql(program: Path, target: Address, *arguments: str, script: str = "") -> tuple[int, str, str]:
    """Exit status, output, errors."""
    done = subprocess.run(
        [str(program), "--no-psqlrc", *arguments],
        input=script.encode(), capture_output=True, check=False,
        env=target.environment(), timeout=DEADLINE_S,
    )  # fmt: skip
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode()


def script_for(program: Path, text: str) -> str:
    """Leave out what this psql does not know."""
    version = subprocess.run(
        [str(program), "--version"], capture_output=True, check=True, text=True
    ).stdout
    major = int(version.split()[2].split(".")[0].removesuffix("devel"))
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if major >= 16 or "\\bind" not in line)


def test_a_script_gives_the_same_output_as_from_the_server(
    program: Path, direct: Address, gateway: Address, table: str
) -> None:
    script = script_for(program, SCRIPT.format(table=table)) + f"drop table {table};\n"
    expected = psql(program, direct, script=script)
    found = psql(program, gateway, script=script)

    def without_pid(outcome: tuple[int, str, str]) -> list[str]:
        lines = (outcome[1] + outcome[2]).splitlines()
        return [line.partition(" received from server process")[0] for line in lines]

    assert expected[0] == found[0] == 0
    assert "1002" in expected[1]
    assert "division by zero" in expected[2]
    assert 'Asynchronous notification "news" with payload "extra"' in expected[1]
    assert without_pid(found) == without_pid(expected)


def test_backslash_commands_describe_the_database(
    program: Path, direct: Address, gateway: Address, table: str
) -> None:
    with direct.connect() as connection:
        connection.execute(f"create table {table} (a int primary key, b text default 'x')")
        connection.execute(f"comment on table {table} is 'of a test'")
    script = (
        f"\\d {table}\n\\d+ {table}\n\\dt+ {table}\n\\df pg_catalog.upper\n\\l\n\\du\n\\dn\n\\dx\n"
    )
    expected = psql(program, direct, script=script)
    assert "of a test" in expected[1]
    assert psql(program, gateway, script=script) == expected


def test_copy_goes_in_and_out_through_files(
    program: Path, target: Address, table: str, tmp_path: Path
) -> None:
    given, taken = tmp_path / "given", tmp_path / "taken"
    rows = "".join(f"{number}\t{'x' * (number % 300)}\n" for number in range(20_000))
    given.write_text(rows)
    script = (
        f"create table {table} (a int, b text);\n"
        f"\\copy {table} from {given}\n"
        f"\\copy (select * from {table} order by a) to {taken}\n"
    )
    status, said, errors = psql(program, target, "-v", "ON_ERROR_STOP=1", script=script)
    assert (status, errors) == (0, "")
    assert said.splitlines() == ["CREATE TABLE", "COPY 20000", "COPY 20000"]
    assert taken.read_text() == rows


def test_several_statements_of_one_argument_are_one_transaction(
    program: Path, target: Address, table: str
) -> None:
    failing = f"create table {table} (); insert into {table} default values; select 1/0"
    status, _, errors = psql(program, target, "-c", failing)
    assert (status, "division by zero" in errors) == (1, True)
    # Neither exists: the three were one transaction. Several -c are one each.
    asked = ["-A", "-t", "-c", f"select to_regclass('{table}') is null", "-c", "select 'next'"]
    assert psql(program, target, *asked) == (0, "t\nnext\n", "")
    single = f"select 1; create table {table} (); select count(*) from {table}"
    assert psql(program, target, "-A", "-t", "-c", single) == (0, "1\nCREATE TABLE\n0\n", "")


def test_ctrl_c_cancels_the_statement(program: Path, target: Address, direct: Address) -> None:
    mark = f"/* canceled from {target.port} */"
    process = subprocess.Popen(
        [str(program), "--no-psqlrc", "-A", "-t"],
        env=target.environment(), text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdin is not None
        process.stdin.write(f"select pg_sleep(600) {mark};\nselect 'still here';\n")
        process.stdin.close()
        process.stdin = None
        with direct.connect() as watcher:
            query = (
                "select 1 from pg_stat_activity where query like %s"
                " and state = 'active' and pid <> pg_backend_pid()"
            )
            eventually(lambda: watcher.execute(query, [f"%{mark}%"]).fetchone(), what="the sleep")
        # It is running; Ctrl-C once has to be enough.
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=DEADLINE_S)
    finally:
        process.kill()
        process.wait()
    assert "canceling statement due to user request" in errors
    assert (process.returncode, said) == (ENDED_BY_USER, "")  # as psql does without a terminal
