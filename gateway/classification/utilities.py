"""What a statement is, by the type of its node: reads, writes, transactions and everything else."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from gateway.reading import READ_VARIABLE

from .inspection import Findings, constant_of, inspect
from .statements import (
    DeallocateStatement,
    Discard,
    DiscardTarget,
    Effect,
    Listen,
    Pin,
    PrepareStatement,
    ResetAll,
    ResetVariable,
    SetOurs,
    SetVariable,
    ShowOurs,
    Statement,
    Transaction,
    Unlisten,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from .catalog import Catalog
    from .parser import Node

OURS: Final = "seawall."
"""The prefix of variables that are answered here and not by a server."""

_UNQUOTED_BYTES_MAX: Final = 200
_HOLD: Final = 0x20  # CURSOR_OPT_HOLD of parsenodes.h

_TRANSACTIONS: Final = {
    "TRANS_STMT_BEGIN": ("BEGIN", Transaction.BEGIN),
    "TRANS_STMT_START": ("START TRANSACTION", Transaction.BEGIN),
    "TRANS_STMT_COMMIT": ("COMMIT", Transaction.COMMIT),
    "TRANS_STMT_ROLLBACK": ("ROLLBACK", Transaction.ROLLBACK),
    "TRANS_STMT_SAVEPOINT": ("SAVEPOINT", Transaction.SAVEPOINT),
    "TRANS_STMT_RELEASE": ("RELEASE", Transaction.RELEASE),
    "TRANS_STMT_ROLLBACK_TO": ("ROLLBACK TO", Transaction.ROLLBACK_TO),
    "TRANS_STMT_PREPARE": ("PREPARE TRANSACTION", Transaction.PREPARE_TRANSACTION),
    "TRANS_STMT_COMMIT_PREPARED": ("COMMIT PREPARED", Transaction.NONE),
    "TRANS_STMT_ROLLBACK_PREPARED": ("ROLLBACK PREPARED", Transaction.NONE),
}
_CHAINED: Final = {
    Transaction.COMMIT: Transaction.COMMIT_AND_CHAIN,
    Transaction.ROLLBACK: Transaction.ROLLBACK_AND_CHAIN,
}
_DISCARDED: Final[dict[str, DiscardTarget]] = {
    "DISCARD_ALL": "all",
    "DISCARD_TEMP": "temp",
    "DISCARD_PLANS": "plans",
    "DISCARD_SEQUENCES": "sequences",
}
_DEFINITIONS: Final = frozenset(
    {
        "CreateFunctionStmt",
        "CreatePolicyStmt",
        "CreateStmt",
        "CreateTrigStmt",
        "RuleStmt",
        "ViewStmt",
    }
)
"""What only stores expressions: a call in them happens at another time."""
_KINDS: Final = {
    "CallStmt": "CALL",
    "CheckPointStmt": "CHECKPOINT",
    "ClosePortalStmt": "CLOSE",
    "CreateStmt": "CREATE TABLE",
    "CreateTableAsStmt": "CREATE TABLE AS",
    "DoStmt": "DO",
    "IndexStmt": "CREATE INDEX",
    "RuleStmt": "CREATE RULE",
    "ViewStmt": "CREATE VIEW",
}
_UNQUOTED: Final = re.compile(
    rb"\s*SET\s+(?:SESSION\s+|(LOCAL)\s+)?seawall\.read\s*(?:=|\bTO\b)\s*"
    rb"(primary|replica\s*\([0-9a-z ]{1,20}\))\s*;?\s*",
    re.IGNORECASE,
)
_WORD: Final = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+")


def describe(node_type: str, body: Node, catalog: Catalog) -> Statement:
    """Say what a statement is."""
    return _RULES.get(node_type, _other)(node_type, body, catalog)


def describe_unquoted(text: bytes) -> Statement | None:
    """Accept `SET seawall.read = primary`, which is a syntax error of PostgreSQL without quotes."""
    match = _UNQUOTED.fullmatch(text[:_UNQUOTED_BYTES_MAX])
    if match is None:
        return None
    effect = SetOurs(READ_VARIABLE, match[2].decode(), is_local=match[1] is not None)
    return Statement("SET", effects=(effect,), depends_on_constants=True)


def _select(_: str, body: Node, catalog: Catalog) -> Statement:
    found = inspect(body, catalog)
    makes_table = "intoClause" in body
    kind = "SELECT INTO" if makes_table else "VALUES" if "valuesLists" in body else "SELECT"
    return Statement(
        kind,
        reads_only=found.is_read,
        is_rerunnable=not makes_table and not found.does_outside_things,
        effects=tuple(found.effects),
        depends_on_constants=found.depends_on_constants,
    )


def _write(node_type: str, body: Node, catalog: Catalog) -> Statement:
    found = inspect(body, catalog)
    if node_type == "UpdateStmt" and body.get("relation", {}).get("relname") == "pg_settings":
        found.pin("a setting made through pg_settings")  # a rule of that view calls set_config
    return Statement(
        node_type.removesuffix("Stmt").upper(),
        is_rerunnable=not found.does_outside_things,
        effects=tuple(found.effects),
        depends_on_constants=found.depends_on_constants,
    )


def _explain(_: str, body: Node, catalog: Catalog) -> Statement:
    found = inspect(body.get("query"), catalog)
    options = (option.get("DefElem", {}).get("defname") for option in body.get("options", []))
    if "analyze" in options:
        return Statement("EXPLAIN", effects=tuple(found.effects))
    return Statement(
        "EXPLAIN",
        reads_only=found.is_read,
        is_rerunnable=True,
        depends_on_constants=found.depends_on_constants,
    )


def _declare(_: str, body: Node, catalog: Catalog) -> Statement:
    found = inspect(body.get("query"), catalog)
    if body.get("options", 0) & _HOLD:
        found.pin("a cursor WITH HOLD")
    return Statement("DECLARE", reads_only=found.is_read, effects=tuple(found.effects))


def _cursor(node_type: str, body: Node, _: Catalog) -> Statement:
    """FETCH, MOVE and CLOSE go where their transaction is."""
    kind = "CLOSE" if node_type == "ClosePortalStmt" else "MOVE" if body.get("ismove") else "FETCH"
    return Statement(kind, reads_only=True)


def _copy(_: str, body: Node, catalog: Catalog) -> Statement:
    found = inspect(body, catalog)
    query = inspect(body.get("query", body.get("relation")), catalog)
    goes_to_client = not (body.get("is_from") or body.get("is_program") or "filename" in body)
    return Statement(
        "COPY",
        reads_only=goes_to_client and query.is_read,
        effects=tuple(found.effects),
        depends_on_constants=found.depends_on_constants,
    )


def _transaction(_: str, body: Node, __: Catalog) -> Statement:
    kind, transaction = _TRANSACTIONS[body["kind"]]
    if body.get("chain"):
        transaction = _CHAINED[transaction]
    elif transaction is Transaction.BEGIN and _is_read_only(body.get("options", [])):
        transaction = Transaction.BEGIN_READ_ONLY
    return Statement(
        kind,
        reads_only=transaction is Transaction.BEGIN_READ_ONLY,
        transaction=transaction,
        savepoint=body.get("savepoint_name", ""),
    )


def _is_read_only(options: list[Any]) -> bool:
    modes = [option.get("DefElem", {}) for option in options]
    values = [(mode.get("defname"), constant_of(mode.get("arg"))) for mode in modes]
    return (
        ("transaction_read_only", "1") in values
        and ("transaction_read_only", "0") not in values
        and ("transaction_isolation", "serializable") not in values
    )


def _set(_: str, body: Node, __: Catalog) -> Statement:
    name = body.get("name", "").lower()
    is_local = bool(body.get("is_local")) or name.startswith("transaction")
    effect: Effect
    match body["kind"]:
        case "VAR_RESET_ALL":
            return Statement("RESET", effects=(ResetAll(),))
        case "VAR_RESET":
            effect = SetOurs(name, None) if name.startswith(OURS) else ResetVariable(name)
            return Statement("RESET", effects=(effect,))
        case "VAR_SET_VALUE" if name.startswith(OURS):
            values = [constant_of(argument) or "" for argument in body.get("args", [])]
            effect = SetOurs(name, ", ".join(values), is_local)
        case "VAR_SET_DEFAULT" if name.startswith(OURS):
            effect = SetOurs(name, None, is_local)
        case "VAR_SET_DEFAULT" if not is_local:
            effect = ResetVariable(name)
        case _:
            effect = SetVariable(name, is_local)
    return Statement("SET", effects=(effect,), depends_on_constants=True)


def _show(_: str, body: Node, __: Catalog) -> Statement:
    name = body.get("name", "").lower()
    effects = (ShowOurs(name),) if name.startswith(OURS) else ()
    return Statement("SHOW", is_rerunnable=True, effects=effects)


def _prepare(_: str, body: Node, catalog: Catalog) -> Statement:
    effects: tuple[Effect, ...] = (PrepareStatement(body.get("name", "")),)
    inner = inspect(body.get("query"), catalog).effects
    if inner:
        # It happens at each EXECUTE, which does not show it.
        pins = tuple(effect for effect in inner if isinstance(effect, Pin))
        effects += pins or (Pin("a prepared statement that changes the session"),)
    return Statement("PREPARE", effects=effects)


def _session(node_type: str, body: Node, _: Catalog) -> Statement:
    kind = node_type.removesuffix("Stmt").upper()
    effect: Effect
    match kind:
        case "DEALLOCATE":
            effect = DeallocateStatement(body.get("name"))
        case "LISTEN":
            effect = Listen(body["conditionname"])
        case "UNLISTEN":
            effect = Unlisten(body.get("conditionname"))
        case "DISCARD":
            effect = Discard(_DISCARDED[body["target"]])
        case _:
            effect = Pin("a loaded library")
    return Statement(kind, effects=(effect,))


def _other(node_type: str, body: Node, catalog: Catalog) -> Statement:
    found: Findings = inspect(body, catalog)
    effects = tuple(found.effects)
    if node_type in _DEFINITIONS:
        effects = tuple(
            effect
            for effect in effects
            if isinstance(effect, Pin) and effect.reason.startswith("a temporary")
        )
    kind = _KINDS.get(node_type)
    if kind is None:
        kind = " ".join(_WORD.findall(node_type.removesuffix("Stmt"))).upper()
    return Statement(kind, effects=effects)


_Rule: TypeAlias = "Callable[[str, Node, Catalog], Statement]"

_RULES: Final[dict[str, _Rule]] = {
    "ClosePortalStmt": _cursor,
    "CopyStmt": _copy,
    "DeallocateStmt": _session,
    "DeclareCursorStmt": _declare,
    "DeleteStmt": _write,
    "DiscardStmt": _session,
    "ExplainStmt": _explain,
    "FetchStmt": _cursor,
    "InsertStmt": _write,
    "ListenStmt": _session,
    "LoadStmt": _session,
    "MergeStmt": _write,
    "PrepareStmt": _prepare,
    "SelectStmt": _select,
    "TransactionStmt": _transaction,
    "UnlistenStmt": _session,
    "UpdateStmt": _write,
    "VariableSetStmt": _set,
    "VariableShowStmt": _show,
}
