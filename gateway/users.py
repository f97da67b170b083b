"""Users as the primary's catalog has them, and for how long a gateway believes it. Pure.

    USER_SQL, user_of(row)      a row of the catalog as a User
    Users                       those that were read, each with its age
    role_sql(verifier)          the role that may read all this, for whoever makes a cluster

The catalog is asked again before anybody is let in or turned away: a new password counts at once,
as with PostgreSQL. Who asks while a question is on its way shares its answer. While the catalog
cannot be read, because the primary is away, entries count for STALE_S, so that clients can come
back during a failover; that somebody is nobody is only ever believed for a moment.

Invariants: at most USERS_MAX entries, and UNKNOWN_MAX names that are nobody's, in a cache of their
own: guessing names drives no user out. A verifier is in no repr.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import msgspec

from pgwire.scram import ScramVerifier

from .settings import GATEWAY_ROLE

UNKNOWN_S: Final = 2.0
STALE_S: Final = 3_600.0
USERS_MAX: Final = 10_000
UNKNOWN_MAX: Final = 1_000
NAME_BYTES_MAX: Final = 63  # PostgreSQL's NAMEDATALEN, less the terminating zero
SETTINGS_MAX: Final = 1_000  # of one user, in all databases
SETTING_PREFIX: Final = "seawall."
ROLE_CONNECTIONS_MAX: Final = 40  # two for each worker, and one for each catalog that is being read

# Settings of the role, and of everybody (setrole 0): as ALTER ROLE and ALTER DATABASE store them.
USER_SQL: Final = """
select a.rolname::text, a.rolpassword, a.rolcanlogin,
       extract(epoch from a.rolvaliduntil)::float8, a.rolconnlimit,
       (select pg_catalog.json_agg(pg_catalog.json_build_array(
                   s.setrole <> 0, coalesce(d.datname::text, ''), s.setconfig))::text
          from pg_catalog.pg_db_role_setting s
          left join pg_catalog.pg_database d on d.oid = s.setdatabase
         where s.setrole in (a.oid, 0) and s.setconfig::text ilike '%seawall.%'),
       (select pg_catalog.md5(pg_catalog.string_agg(s::text, ',' order by s.setrole, s.setdatabase))
          from pg_catalog.pg_db_role_setting s
         where s.setrole in (a.oid, 0))
  from pg_catalog.pg_authid a
 where a.rolname = $1
"""
_COLUMNS: Final = 7
_NONE: Final[Mapping[str, str]] = MappingProxyType({})
_SETTINGS: Final = msgspec.json.Decoder(list[tuple[bool, str, list[str]]])


class CatalogRowError(Exception):
    """The catalog answered with what cannot be: the sentence says what."""


@dataclass(frozen=True, slots=True)
class User:
    """Who may log in, and how it proves who it is."""

    name: str
    verifier: ScramVerifier | None = field(repr=False)
    """None: it has no password, or one that is not of SCRAM: nobody can log in as it by us."""
    can_login: bool
    valid_until_s: float | None = None
    """When its password ends, in seconds of Unix time; None: never."""
    connection_limit: int = -1
    """How many connections it may have; -1: as many as it wants."""
    settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Settings of ours that sessions begin with, by database; "": in all that have none."""
    settings_digest: str = ""
    """Another one when any setting of the role is: links that began with others are not for it."""

    def settings_of(self, database: str) -> Mapping[str, str]:
        """Return the settings that a session of this user in a database begins with."""
        everywhere, here = self.settings.get("", _NONE), self.settings.get(database, _NONE)
        return {**everywhere, **here}

    def is_expired(self, unix_s: float) -> bool:
        """Whether its password does not count any more."""
        return self.valid_until_s is not None and unix_s >= self.valid_until_s


def user_of(row: Sequence[Any]) -> User:
    """Read a row of USER_SQL."""
    if len(row) != _COLUMNS:
        raise CatalogRowError(f"a user has {_COLUMNS} columns, not {len(row)}")
    name, password, can_login, valid_until_s, connection_limit, settings, digest = row
    is_forever = valid_until_s is None or valid_until_s == float("inf")
    return User(
        name=str(name),
        verifier=_verifier_of(password),
        can_login=bool(can_login),
        valid_until_s=None if is_forever else float(valid_until_s),
        connection_limit=int(connection_limit),
        settings=_settings_of(settings),
        settings_digest=str(digest or ""),
    )


def _verifier_of(password: str | None) -> ScramVerifier | None:
    if password is None:
        return None
    try:
        return ScramVerifier.parse(password)
    except ValueError:  # MD5, or a form that is newer than we are
        return None


def _settings_of(text: str | None) -> Mapping[str, Mapping[str, str]]:
    """Merge what all roles have and what the role has: within a database the role's own wins, and
    what is said of a database wins over what is said of all of them.
    """
    if text is None:
        return {}
    try:
        rows = _SETTINGS.decode(text)
    except msgspec.DecodeError as error:
        raise CatalogRowError(f"the settings of a role cannot be read: {error}") from error
    found: dict[str, dict[str, str]] = {}
    count = 0
    for _, database, entries in sorted(rows, key=lambda row: row[0]):
        for entry in entries:
            name, _, value = entry.partition("=")
            name = name.strip().lower()
            if name.startswith(SETTING_PREFIX) and count < SETTINGS_MAX:
                found.setdefault(database, {})[name] = value
                count += 1
    return found


# --- The cache ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a name. `user` None: there was no such user."""

    user: User | None
    read_s: float

    @property
    def needs_no_question(self) -> bool:
        """Whether it is believed without asking: that somebody is nobody, while that is usable."""
        return self.user is None

    def is_usable(self, now_s: float) -> bool:
        """Whether it can be believed while nobody can be asked."""
        limit_s = UNKNOWN_S if self.user is None else STALE_S
        return now_s - self.read_s <= limit_s


class Users:
    """Users that were read. `now_s` is a monotonic clock's."""

    def __init__(self, *, users_max: int = USERS_MAX, unknown_max: int = UNKNOWN_MAX) -> None:
        self._users: dict[str, Known] = {}  # in the order in which they were read
        self._unknown: dict[str, Known] = {}
        self._users_max, self._unknown_max = users_max, unknown_max

    def __len__(self) -> int:
        return len(self._users) + len(self._unknown)

    def get(self, name: str, now_s: float) -> Known | None:
        """Return what is known, as long as anybody may believe it."""
        known = self._users.get(name) or self._unknown.get(name)
        if known is not None and not known.is_usable(now_s):
            self.forget(name)
            return None
        return known

    def put(self, name: str, user: User | None, now_s: float) -> Known:
        """Remember what was read just now."""
        self.forget(name)
        cache, limit = (
            (self._unknown, self._unknown_max) if user is None else (self._users, self._users_max)
        )
        while len(cache) >= limit:
            del cache[next(iter(cache))]  # what was read longest ago
        known = cache[name] = Known(user, now_s)
        return known

    def forget(self, name: str) -> None:
        """Know nothing of a name."""
        self._users.pop(name, None)
        self._unknown.pop(name, None)


def can_be_a_name(name: str) -> bool:
    """Whether a user could have this name at all; if not, there is nothing to ask."""
    try:
        return 0 < len(name.encode()) <= NAME_BYTES_MAX and "\0" not in name
    except UnicodeEncodeError:
        return False


# --- The role -------------------------------------------------------------------------------------


def role_sql(verifier: ScramVerifier) -> str:
    """Return the statements that make the gateway's role, for a superuser in database postgres.

    They are harmless to repeat. The role can log in, read who may, and see what backends wait for;
    it has no right to anybody's data. It takes a verifier: no log of the server has the password.
    """
    role = GATEWAY_ROLE
    return f"""
do $make$ begin
  if not exists (select from pg_catalog.pg_roles where rolname = '{role}') then
    create role {role};
  end if;
end $make$;
alter role {role} with login inherit nosuperuser nocreatedb nocreaterole noreplication nobypassrls
  connection limit {ROLE_CONNECTIONS_MAX} password '{verifier.format()}';
grant select (oid, rolname, rolpassword, rolcanlogin, rolvaliduntil, rolconnlimit)
  on pg_catalog.pg_authid to {role};
grant pg_read_all_stats to {role};
"""
