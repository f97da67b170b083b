"""Why a trial could not be made, in a sentence: what may go wrong without being our mistake."""

import subprocess
from typing import Final

import asyncpg
import psycopg

from bench.faults.target import TargetError as FaultsTargetError
from bench.loads.tally import LoadError
from bench.targets.target import TargetError
from sqlnode.initdb import InitdbError
from sqlnode.postgres import PostgresError

REFUSALS: Final = (
    FaultsTargetError,
    InitdbError,
    LoadError,
    OSError,
    PostgresError,
    TargetError,
    asyncpg.InterfaceError,
    asyncpg.PostgresError,
    psycopg.Error,
    subprocess.SubprocessError,
)
