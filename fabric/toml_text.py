"""Settings as a TOML file, for whoever starts a node. (Reading is what settings.py does.)"""

import json
from collections.abc import Mapping


def toml_text(values: Mapping[str, object]) -> str:
    """Return a TOML file. JSON's strings, numbers, booleans and arrays are TOML's, too."""
    plain = {name: value for name, value in values.items() if not isinstance(value, Mapping)}
    tables = {name: value for name, value in values.items() if isinstance(value, Mapping)}
    lines = [f"{name} = {json.dumps(value)}" for name, value in plain.items()]
    for table, entries in tables.items():
        lines += ["", f"[{table}]"]
        lines += [f"{json.dumps(name)} = {json.dumps(value)}" for name, value in entries.items()]
    return "\n".join(lines) + "\n"
