"""What the API server does with an object of a CRD, as far as JSON schema goes: defaults, checks.

In scope: defaults as Kubernetes fills them in (from the top down, also into what a default made),
unknown fields, types, limits. Out of scope: rules in CEL, which only an API server evaluates;
tests/e2e asks one.
"""

from typing import Any

import jsonschema  # type: ignore[import-untyped]  # ships no types

Json = dict[str, Any]


def fill_defaults(value: Any, schema: Json) -> Any:
    """Return the value with all defaults, as the API server stores it."""
    if isinstance(value, list):
        return [fill_defaults(item, schema.get("items", {})) for item in value]
    if not isinstance(value, dict):
        return value
    filled = dict(value)
    for name, field in schema.get("properties", {}).items():
        if filled.get(name) is None and "default" in field:  # null counts as absent
            filled[name] = field["default"]
        if name in filled:
            filled[name] = fill_defaults(filled[name], field)
    values = schema.get("additionalProperties")
    if isinstance(values, dict):
        filled = {name: fill_defaults(item, values) for name, item in filled.items()}
    return filled


def problems(value: Json, schema: Json) -> list[str]:
    """Return what the API server would say, strictly: unknown fields, too."""
    validator = jsonschema.Draft202012Validator(_strict(schema))
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]


def _strict(schema: Any) -> Any:
    """Refuse unknown fields, as `kubectl apply` does by default."""
    if isinstance(schema, list):
        return [_strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {name: _strict(one) for name, one in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        strict["additionalProperties"] = False
    return strict
