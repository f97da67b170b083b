"""What the nodes of one statement's tree tell: is all of it a read, what does it leave behind.

The walk takes any tree of the parser, with a stack of its own instead of recursion. It goes by
keys: a key with a capital is the type of a node, another one is a field. A node whose type is not
known to be a part of reads makes the statement none, so a new grammar cannot add a write that is
overlooked.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from .names import (
    is_node_function,
    is_node_relation,
    is_outside_function,
    is_temporary_schema,
    pin_reason,
)
from .statements import Effect, Pin, SetVariable

if TYPE_CHECKING:
    from collections.abc import Callable

    from .catalog import Catalog

_READ_NODES: Final = frozenset(
    {
        "A_ArrayExpr",
        "A_Const",
        "A_Expr",
        "A_Indices",
        "A_Indirection",
        "A_Star",
        "Alias",
        "BitString",
        "BoolExpr",
        "Boolean",
        "BooleanTest",
        "CTECycleClause",
        "CTESearchClause",
        "CaseExpr",
        "CaseWhen",
        "CoalesceExpr",
        "CollateClause",
        "ColumnDef",
        "ColumnRef",
        "CommonTableExpr",
        "Float",
        "FuncCall",
        "GroupingFunc",
        "GroupingSet",
        "Integer",
        "JoinExpr",
        "JsonAggConstructor",
        "JsonArgument",
        "JsonArrayAgg",
        "JsonArrayConstructor",
        "JsonArrayQueryConstructor",
        "JsonBehavior",
        "JsonFormat",
        "JsonFuncExpr",
        "JsonIsPredicate",
        "JsonKeyValue",
        "JsonObjectAgg",
        "JsonObjectConstructor",
        "JsonOutput",
        "JsonParseExpr",
        "JsonReturning",
        "JsonScalarExpr",
        "JsonSerializeExpr",
        "JsonTable",
        "JsonTableColumn",
        "JsonTablePathSpec",
        "JsonValueExpr",
        "List",
        "MinMaxExpr",
        "NamedArgExpr",
        "NullTest",
        "ParamRef",
        "RangeFunction",
        "RangeSubselect",
        "RangeTableFunc",
        "RangeTableFuncCol",
        "RangeTableSample",
        "RangeVar",
        "ResTarget",
        "RowExpr",
        "SQLValueFunction",
        "SelectStmt",
        "SortBy",
        "String",
        "SubLink",
        "TypeCast",
        "TypeName",
        "WindowDef",
        "WithClause",
        "XmlExpr",
        "XmlSerialize",
    }
)
_CONTAINERS: Final = (dict, list)
_TRUE: Final = frozenset({"t", "true", "y", "yes", "on", "1"})
_FALSE: Final = frozenset({"f", "false", "n", "no", "off", "0"})


@dataclass(slots=True)
class Findings:
    """What was found in a tree; `effects` is a dictionary for its order and without doubles."""

    catalog: Catalog
    is_read: bool = True
    does_outside_things: bool = False
    """Whether it may do what no rollback takes back."""
    depends_on_constants: bool = False
    relations: set[str] = field(default_factory=set)
    effects: dict[Effect, None] = field(default_factory=dict)

    def pin(self, reason: str) -> None:
        """Note something that stays in the session."""
        self.is_read = False
        self.effects[Pin(reason)] = None


def inspect(tree: Any, catalog: Catalog) -> Findings:
    """Walk a tree, or a part of one."""
    findings = Findings(catalog)
    pending = [tree]
    while pending:
        item = pending.pop()
        if type(item) is list:
            pending.extend(item)
        elif type(item) is dict:
            for key, value in item.items():
                if "A" <= key[0] <= "Z" and key not in _READ_NODES:
                    findings.is_read = False
                rule = _RULES.get(key)
                if rule is not None:
                    rule(findings, value)
                if type(value) in _CONTAINERS:
                    pending.append(value)
    return findings


def name_of(parts: list[dict[str, Any]]) -> str:
    """Return the last part of a name, without its schema."""
    return str(parts[-1].get("String", {}).get("sval", "")) if parts else ""


def constant_of(node: Any) -> str | None:
    """Return what a constant says as text, also through a cast; None for all else."""
    while type(node) is dict and "TypeCast" in node:
        node = node["TypeCast"].get("arg")
    constant = node.get("A_Const") if type(node) is dict else None
    if constant is None or constant.get("isnull"):
        return None
    if "boolval" in constant:
        return "true" if constant["boolval"].get("boolval") else "false"
    if "ival" in constant:
        return str(constant["ival"].get("ival", 0))
    for kind in ("sval", "fval", "bsval"):
        if kind in constant:
            return str(constant[kind].get(kind, ""))
    return None


def _function_call(findings: Findings, call: Any) -> None:
    name = name_of(call.get("funcname", []))
    _called(findings, name)
    if name == "set_config":
        _set_config(findings, call.get("args", []))
    elif name == "current_setting":
        # A variable with a dot is the application's, and every link is given the session's value.
        # One of the server can differ: port, transaction_read_only, in_hot_standby.
        findings.depends_on_constants = True
        arguments = call.get("args", [])
        variable = constant_of(arguments[0]) if arguments else None
        if variable is None or "." not in variable:
            findings.is_read = False
    if name not in findings.catalog.stable_functions:
        findings.is_read = False


def _called(findings: Findings, name: str) -> None:
    """Note what is known of a function without the catalog."""
    if is_node_function(name):
        findings.is_read = False
    if is_outside_function(name):
        findings.does_outside_things = True
    reason = pin_reason(name)
    if reason is not None:
        findings.pin(reason)


def _set_config(findings: Findings, arguments: list[Any]) -> None:
    findings.is_read = False
    constants = [constant_of(argument) for argument in arguments]
    name, value, is_local = constants if len(constants) == 3 else (None, None, None)  # noqa: PLR2004  # its arguments
    if name is None or value is None or is_local not in _TRUE | _FALSE:
        findings.pin("a setting whose name or value is computed")
    else:
        findings.effects[SetVariable(name.lower(), is_local in _TRUE)] = None


def _column(findings: Findings, column: Any) -> None:
    """`t.f` can be a call of f with a row of t, which only functions of users take."""
    fields = column.get("fields", [])
    if len(fields) > 1 and name_of(fields) in findings.catalog.volatile_functions:
        findings.is_read = False


def _indirection(findings: Findings, node: Any) -> None:
    """`(x).f` can be a call of f, whatever x is."""
    for part in node.get("indirection", []):
        name = name_of([part])
        if name in findings.catalog.volatile_functions:
            findings.is_read = False
        _called(findings, name)


def _expression(findings: Findings, expression: Any) -> None:
    _operator(findings, expression.get("name", []))


def _operator(findings: Findings, name: Any) -> None:
    if name_of(name) in findings.catalog.volatile_operators:
        findings.is_read = False


def _relation(findings: Findings, name: Any) -> None:
    findings.relations.add(name)
    if name in findings.catalog.unsafe_views or is_node_relation(name):
        findings.is_read = False


def _schema(findings: Findings, name: Any) -> None:
    if is_temporary_schema(name):
        findings.pin("a temporary object")


def _string(findings: Findings, node: Any) -> None:
    """Names with a schema are lists of these: pg_temp.f(), pg_temp.t in a DROP."""
    if is_temporary_schema(node.get("sval", "")):
        findings.pin("a temporary object")


def _persistence(findings: Findings, value: Any) -> None:
    if value == "t":
        findings.pin("a temporary table, view or sequence")


def _no_read(findings: Findings, _: Any) -> None:
    findings.is_read = False


_Rule: TypeAlias = "Callable[[Findings, Any], None]"

_RULES: Final[dict[str, _Rule]] = {
    "A_Expr": _expression,
    "A_Indirection": _indirection,
    "ColumnRef": _column,
    "FuncCall": _function_call,
    "String": _string,
    "funccall": _function_call,
    "intoClause": _no_read,
    "operName": _operator,
    "relname": _relation,
    "relpersistence": _persistence,
    "schemaname": _schema,
    "useOp": _operator,
}
