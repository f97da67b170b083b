"""What a database knows and the parser does not: which functions, operators and relations are safe.

    FUNCTIONS_SQL, OPERATORS_SQL, VIEWS_SQL  ->  rows  ->  catalog_of  ->  Catalog

A view, and a policy of row security, runs what its definition says: definitions are classified as
statements are, and what refers to an unsafe relation is unsafe, too, to a fixed point.

All is by bare name, because the search path of a session is its own: a name is safe if everything
of that name in every schema is. Where a database has more than the limits, the surplus is unsafe:
functions that are not listed are not stable, views without a definition are unsafe. All relations
are listed; whoever reads so many that there is a limit to them has none of this (EMPTY).

Not seen, and left to the refusal of writes by replicas: casts and domains of users that call
volatile functions, and functions that are declared stable but are not.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Final

from .inspection import inspect
from .names import HARMLESS_FUNCTIONS, is_node_function
from .parser import InvalidTextError, UnreadableTextError, parse

FUNCTIONS_SQL: Final = """
SELECT p.proname::text,
       bool_or(v.is_volatile AND n.nspname <> 'pg_catalog') AS is_volatile_elsewhere,
       bool_or(v.is_volatile AND n.nspname = 'pg_catalog') AS is_volatile_built_in,
       bool_or(v.is_volatile AND p.pronargs - p.pronargdefaults <= 1) AS is_volatile_of_one
  FROM pg_catalog.pg_proc p
  JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
  LEFT JOIN pg_catalog.pg_aggregate a ON a.aggfnoid = p.oid
 CROSS JOIN LATERAL (
       SELECT p.provolatile = 'v' OR a.aggfnoid IS NOT NULL AND EXISTS (
              SELECT FROM pg_catalog.pg_proc s
               WHERE s.provolatile = 'v'
                 AND s.oid IN (a.aggtransfn, a.aggfinalfn, a.aggcombinefn, a.aggmtransfn,
                               a.aggminvtransfn, a.aggmfinalfn)) AS is_volatile) v
 WHERE p.prokind IN ('f', 'a', 'w') AND n.nspname !~ '^pg_(toast_)?temp_'
 GROUP BY 1
 ORDER BY bool_or(v.is_volatile) DESC, 1
 LIMIT 50000
"""
"""Names of functions, the volatile ones first. An aggregate is as volatile as what it is made of.

Functions of temporary schemas are left out: they are not found by a bare name.
"""

OPERATORS_SQL: Final = """
SELECT DISTINCT o.oprname::text
  FROM pg_catalog.pg_operator o
  JOIN pg_catalog.pg_proc p ON p.oid = o.oprcode
 WHERE p.provolatile = 'v'
 LIMIT 10000
"""
"""Names of volatile operators."""

VIEWS_SQL: Final = """
SELECT listed.name, CASE WHEN octet_length(d.definition) <= 16384 THEN d.definition END
  FROM (SELECT c.oid, c.relname::text AS name, c.relkind = 'v' AS has_definition,
               row_number() OVER (ORDER BY c.relkind = 'v' DESC, c.oid) AS number
          FROM pg_catalog.pg_class c
          JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE (c.relkind IN ('v', 'S') OR c.relkind IN ('r', 'm') AND c.relpersistence = 'u')
           AND n.nspname NOT IN ('pg_catalog', 'information_schema')
           AND n.nspname !~ '^pg_(toast|temp)') listed
 CROSS JOIN LATERAL (
       SELECT CASE WHEN listed.has_definition AND listed.number <= 5000
                   THEN pg_catalog.pg_get_viewdef(listed.oid) END AS definition) d
UNION ALL
SELECT policies.name, CASE WHEN octet_length(policies.text) <= 16384 THEN policies.text END
  FROM (SELECT c.relname::text AS name,
               'SELECT 1 WHERE ' || pg_catalog.pg_get_expr(p.polqual, p.polrelid) AS text
          FROM pg_catalog.pg_policy p
          JOIN pg_catalog.pg_class c ON c.oid = p.polrelid
         WHERE p.polcmd IN ('r', '*') AND p.polqual IS NOT NULL) policies
UNION ALL
SELECT DISTINCT r.relname::text, NULL
  FROM pg_catalog.pg_class c
 CROSS JOIN LATERAL pg_catalog.pg_partition_ancestors(c.oid) a
  JOIN pg_catalog.pg_class r ON r.oid = a.relid
 WHERE c.relispartition AND c.relkind = 'r' AND c.relpersistence = 'u'
"""
"""Relations with what a read of them runs; NULL for those that no read on a replica should touch:
sequences, which are ahead there, and unlogged tables and their parents, which are empty there."""

FunctionRow = tuple[str, bool, bool, bool]
OperatorRow = tuple[str]
ViewRow = tuple[str, str | None]


@dataclass(frozen=True, slots=True)
class Catalog:
    """What is known of a database; everything by bare name."""

    stable_functions: frozenset[str]
    """All overloads in every schema only read or compute, alike on all servers."""
    volatile_operators: frozenset[str]
    unsafe_views: frozenset[str]
    """Relations that a replica must not read."""
    volatile_functions: frozenset[str] = frozenset()
    """Those that `(x).name`, which looks like a column, can call."""

    EMPTY: ClassVar["Catalog"]
    """Nothing is known, so that all that calls a function goes to the primary."""


Catalog.EMPTY = Catalog(frozenset(), frozenset(), frozenset())


def catalog_of(
    function_rows: Iterable[FunctionRow],
    operator_rows: Iterable[OperatorRow],
    view_rows: Iterable[ViewRow],
) -> Catalog:
    """Make a catalog of what the three texts of SQL gave; a second of work for 5,000 views."""
    stable: set[str] = set()
    volatile: set[str] = set()
    for name, is_volatile_elsewhere, is_volatile_built_in, is_volatile_of_one in function_rows:
        is_harmless = not is_volatile_elsewhere and name in HARMLESS_FUNCTIONS
        if is_volatile_of_one and not is_harmless:
            volatile.add(name)
        if not is_volatile_elsewhere and (not is_volatile_built_in or is_harmless):
            stable.add(name)
    known = Catalog(
        stable_functions=frozenset(name for name in stable if not is_node_function(name)),
        volatile_operators=frozenset(name for (name,) in operator_rows),
        unsafe_views=frozenset(),
        volatile_functions=frozenset(volatile),
    )
    return Catalog(
        stable_functions=known.stable_functions,
        volatile_operators=known.volatile_operators,
        unsafe_views=_unsafe(view_rows, known),
        volatile_functions=known.volatile_functions,
    )


def _unsafe(view_rows: Iterable[ViewRow], known: Catalog) -> frozenset[str]:
    unsafe: set[str] = set()
    referring: defaultdict[str, set[str]] = defaultdict(set)
    for name, definition in view_rows:
        relations = None if definition is None else _relations_of(definition, known)
        if relations is None:
            unsafe.add(name)
        for relation in relations or ():
            referring[relation].add(name)
    pending = list(unsafe)
    while pending:
        found = referring[pending.pop()] - unsafe
        unsafe |= found
        pending.extend(found)
    return frozenset(unsafe)


def _relations_of(definition: str, known: Catalog) -> set[str] | None:
    """Return what a definition reads, or None if it does more than reading."""
    try:
        statements = parse(definition.encode())
    except (InvalidTextError, UnreadableTextError):
        return None
    if [node_type for node_type, _ in statements] != ["SelectStmt"]:
        return None
    found = inspect(statements[0][1], known)
    return found.relations if found.is_read else None
