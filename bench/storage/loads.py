"""Work for a primary, and how much WAL it makes.

pgbench's transactions change pages at random; checkpoints come where this module says, because it
is at checkpoints that storage nodes take cuts.

WAL that only has to be there is written by a procedure that runs the statements of TPC-B in the
server, one transaction after the other, from two sessions: pgbench's seven round trips for each
would take most of the benchmark's time. What has to look like load is pgbench itself.
"""

from pathlib import Path
from typing import Final

from bench.pagefault.pgbench import run_pgbench
from bench.pagefault.workspace import connected

from .world import World

CLIENTS: Final = 4
JOBS: Final = 2
WRITERS: Final = 2
TRANSACTION_WAL_BYTES: Final = 480  # at first; what one really takes is measured with each slice
TRANSACTIONS_A_CALL: Final = 1_000

TPCB: Final = """
create procedure tpcb(scale int, transactions int) language plpgsql as $$
declare a int; b int; t int; delta int; balance int;
begin
    for i in 1 .. transactions loop
        a := 1 + floor(random() * 100000 * scale);
        b := 1 + floor(random() * scale);
        t := 1 + floor(random() * 10 * scale);
        delta := floor(random() * 10001) - 5000;
        update pgbench_accounts set abalance = abalance + delta where aid = a;
        select abalance into balance from pgbench_accounts where aid = a;
        update pgbench_tellers set tbalance = tbalance + delta where tid = t;
        update pgbench_branches set bbalance = bbalance + delta where bid = b;
        insert into pgbench_history (tid, bid, aid, delta, mtime) values (t, b, a, delta, now());
        commit;
    end loop;
end $$"""


def make_tables(program: Path, world: World, *, scale: int) -> None:
    """pgbench's tables."""
    run_pgbench(program, world.primary, "--initialize", "--quiet", f"--scale={scale}")


def write_wal(
    program: Path, world: World, *, scale: int, size_bytes: int, checkpoint_bytes: int
) -> None:
    """TPC-B until so much WAL is written, and a checkpoint now and then."""
    with connected(world.primary) as session:
        session.execute(TPCB.encode())
    script = world.place.directory / "tpcb.sql"
    script.write_text(f"call tpcb({scale}, {TRANSACTIONS_A_CALL});\n", encoding="utf-8")
    per_transaction = float(TRANSACTION_WAL_BYTES)
    began = world.wal_bytes()
    while (left := size_bytes - (world.wal_bytes() - began)) > 0:
        calls = calls_for(min(left, checkpoint_bytes), per_transaction)
        before = world.wal_bytes()
        run_pgbench(
            program, world.primary, "--no-vacuum", f"--file={script}",
            f"--client={WRITERS}", f"--jobs={WRITERS}", f"--transactions={calls}",
        )  # fmt: skip
        per_transaction = (world.wal_bytes() - before) / (calls * WRITERS * TRANSACTIONS_A_CALL)
        with connected(world.primary) as session:
            session.execute("checkpoint")


def calls_for(size_bytes: int, per_transaction: float) -> int:
    """How often each writer calls the procedure for so much WAL."""
    return max(1, round(size_bytes / per_transaction / TRANSACTIONS_A_CALL / WRITERS))


def run_tpcb(program: Path, world: World, *, seconds: int, rate: int | None = None) -> None:
    """TPC-B for so long, as fast as it goes or so many a second."""
    limits = [] if rate is None else [f"--rate={rate}"]
    run_pgbench(
        program, world.primary, "--no-vacuum", "--protocol=prepared",
        f"--client={CLIENTS}", f"--jobs={JOBS}", f"--time={seconds}", *limits,
    )  # fmt: skip
