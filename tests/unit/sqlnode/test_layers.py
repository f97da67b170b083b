"""Every module of sqlnode has its place among the layers: the mechanism's, or the agent's above it.

import-linter checks what the contract names: a module that it does not name may import anything.
"""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_every_module_of_the_mechanism_is_named_in_the_contract_of_layers() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (contract,) = [c for c in project["tool"]["importlinter"]["contracts"] if c["type"] == "layers"]
    named = {name.strip() for layer in contract["layers"] for name in re.split("[:|]", layer)}
    parts = {path.stem for path in (ROOT / "sqlnode").glob("*.py")} - {"__init__"}
    packages = {path.parent.name for path in (ROOT / "sqlnode").glob("*/__init__.py")}
    assert {f"sqlnode.{name}" for name in parts | packages} <= named
