"""Who logs in: the superuser of a local cluster, with all that a login can be made of.

A password takes a client 2 ms of hashing at each login. Whoever logs in ten thousand times hashes
it once and keeps the keys that this gives, as drivers do that cache them.
"""

import hashlib
import hmac
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

import psycopg
from psycopg.conninfo import conninfo_to_dict

from bench.faults.target import TargetError
from pgwire.saslprep import prepared_password
from pgwire.scram import ScramKeys, ScramVerifier

USER: Final = "postgres"
DATABASE: Final = "postgres"
HOST: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Credentials:
    """Of one user; nothing of it is ever shown."""

    password: str = field(repr=False)
    verifier: str = field(repr=False)  # as pg_authid has it
    keys: ScramKeys = field(repr=False)

    @classmethod
    def read(cls, url: str, port: int) -> Self:
        """Find the password by a cluster's URL, and the verifier on the server at this port."""
        passfile = conninfo_to_dict(url).get("passfile")
        if passfile is None:
            raise TargetError("the URL of the primary names no file with a password")
        password = password_in(Path(str(passfile)).read_text(encoding="utf-8"))
        with psycopg.connect(
            host=HOST, port=port, user=USER, dbname=DATABASE, password=password
        ) as connection:
            row = connection.execute(
                "select rolpassword from pg_authid where rolname = current_user"
            ).fetchone()
        assert row is not None, "who asks is there"
        return cls(password, row[0], keys_of(password, ScramVerifier.parse(row[0])))

    def write_passfile(self, path: Path) -> None:
        """Write libpq's password file, for this user at any port."""
        path.touch(mode=0o600)
        path.write_text(f"*:*:*:{USER}:{self.password}\n", encoding="utf-8")


def password_in(passfile: str) -> str:
    """Return the password of the first line of libpq's file; those of a local cluster have one."""
    lines = passfile.splitlines()
    if not lines:
        raise TargetError("the file with the password of the cluster is empty")
    return lines[0].rpartition(":")[2]


def keys_of(password: str, verifier: ScramVerifier) -> ScramKeys:
    """Return what a client makes of its password, as RFC 5802 has it."""
    salted = hashlib.pbkdf2_hmac(
        "sha256", prepared_password(password), verifier.salt, verifier.iterations
    )
    client_key, server_key = (
        hmac.digest(salted, what, "sha256") for what in (b"Client Key", b"Server Key")
    )
    if not hmac.compare_digest(hashlib.sha256(client_key).digest(), verifier.stored_key):
        raise TargetError("the password of the cluster is not the one that its primary knows")
    return ScramKeys(client_key, server_key)
