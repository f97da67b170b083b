"""The CRD says what the types say, in the form that Kubernetes takes, and is committed as made.

In scope: the structural schema (no references, one type a field, documentation, limits, defaults),
the rules' texts, columns and subresources. Out of scope: what the rules do, since only an API
server evaluates CEL; rule_cases.py has what tests/e2e asks one.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml  # type: ignore[import-untyped]  # ships no types
from unit.operator.rule_cases import CASES, Case, object_of
from unit.operator.structural import fill_defaults, problems

from kube_operator import crd, crd_rules, spec
from kube_operator.cluster_status import ClusterStatus, Condition, ConditionStatus
from sqlnode.postgres_settings import FIXED_NAMES

CHART = Path(__file__).parents[3] / "charts" / "seawall"
COMMITTED = CHART / "crds" / "postgresclusters.seawall.dev.yaml"
EXAMPLES = sorted((CHART / "examples").glob("*.yaml"))
HOW = "in operator/: python -P -m kube_operator.crd > ../charts/seawall/crds/" + COMMITTED.name

SCHEMA = crd.object_schema()
SPEC = SCHEMA["properties"]["spec"]
STATUS = SCHEMA["properties"]["status"]


def fields_of(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field at any depth, with its path."""
    for name, field in schema.get("properties", {}).items():
        yield f"{path}.{name}", field
        yield from fields_of(field, f"{path}.{name}")
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), dict):
            yield from fields_of(schema[name], f"{path}[]")


FIELDS = dict(fields_of({"properties": {"spec": SPEC, "status": STATUS}}, ""))


def rules_of(schema: dict[str, Any]) -> list[dict[str, str]]:
    rules: list[dict[str, str]] = schema.get("x-kubernetes-validations", [])
    return rules


def clusters_of(path: Path) -> list[dict[str, Any]]:
    documents = yaml.safe_load_all(path.read_text())
    return [one for one in documents if one["kind"] == spec.KIND]


def test_committed_file_is_what_the_types_say() -> None:
    assert COMMITTED.read_text() == crd.as_yaml(crd.resource_definition()), HOW


def test_schema_has_no_references_and_one_type_for_each_field() -> None:
    text = msgspec.json.encode(SCHEMA).decode()
    assert "$ref" not in text
    assert '"null"' not in text
    for path, field in FIELDS.items():
        is_quantity = field.get("x-kubernetes-int-or-string", False)
        assert ("type" in field) != is_quantity, path
        assert is_quantity or "anyOf" not in field, path


def test_every_field_is_documented() -> None:
    for path, field in FIELDS.items():
        assert re.fullmatch(r"[A-Zs`].+[.`]|.+\.\.\.", field.get("description", "")), path


@pytest.mark.parametrize("part", ["spec", "status"])
def test_lists_and_maps_have_limits(part: str) -> None:
    for path, field in fields_of(SCHEMA["properties"][part], part):
        if field.get("type") == "array":
            assert field["maxItems"] > 0, path
        if "additionalProperties" in field:
            assert field["maxProperties"] > 0, path


def test_version_is_all_that_a_user_must_write() -> None:
    assert SPEC["required"] == ["version"]
    assert [path for path, field in FIELDS.items() if field.get("required")] == [
        ".spec",
        ".spec.objectStore",
    ]


def test_defaults_are_those_of_the_types() -> None:
    stored = fill_defaults({"version": 17}, SPEC)
    assert stored["gateway"]["poolMode"] == "session"
    assert stored["logNodes"]["volume"] == {"size": "10Gi"}
    assert spec.decode_spec(stored) == spec.decode_spec({"version": 17})


def test_part_of_a_part_gets_its_defaults() -> None:
    stored = fill_defaults({"version": 17, "logNodes": {"count": 1}}, SPEC)
    assert stored["logNodes"]["count"] == 1
    assert stored["logNodes"]["volume"] == {"size": "10Gi"}


def test_default_of_a_part_is_whole_because_rules_are_asked_of_it() -> None:
    for path, field in FIELDS.items():
        if "default" in field and "properties" in field:
            assert fill_defaults(field["default"], field) == field["default"], path


def test_status_has_no_defaults() -> None:
    assert not [path for path, field in fields_of(STATUS, "") if "default" in field]


def test_conditions_are_merged_by_type() -> None:
    conditions = STATUS["properties"]["conditions"]
    assert conditions["x-kubernetes-list-type"] == "map"
    assert conditions["x-kubernetes-list-map-keys"] == ["type"]


def test_status_of_the_types_is_accepted() -> None:
    condition = Condition(
        type="Ready", status=ConditionStatus.TRUE, reason="Serving", message="All is well.",
        last_transition_time="2026-01-01T00:00:00Z", observed_generation=1,
    )  # fmt: skip
    status = ClusterStatus(observed_generation=1, phase="Ready", conditions=[condition])
    assert problems(msgspec.to_builtins(status), STATUS) == []


@pytest.mark.parametrize("cpu", [1, "1", "500m", "1.5"])
def test_quantities_are_numbers_or_text(cpu: int | str) -> None:
    resources = {"requests": {"cpu": cpu}}
    assert problems({"version": 17, "compute": {"resources": resources}}, SPEC) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"version": 14},
        {"version": "17"},
        {"computes": 0},
        {"logNodes": {"count": 6}},
        {"gateway": {"read": "replica(5 s)"}},
        {"gateway": {"poolmode": "session"}},
        {"compute": {"resources": {"requests": {"cpu": -1}}}},
        {"compute": {"resources": {"limits": {"memory": "1 GB"}}}},
        {"compute": {"sharedBuffers": "1Gi"}},
        {"settings": {"work_mem": 4}},
        {"settings": {f"a.b{number}": "" for number in range(201)}},
        {"objectStore": {}},
        {"objectStore": {"url": "https://bucket"}},
        {"scheduling": {"antiAffinity": "never"}},
        {"scheduling": {"tolerations": ["dedicated"]}},
    ],
)
def test_mistake_is_refused_by_the_schema_and_by_the_operator(wrong: dict[str, Any]) -> None:
    written = {"version": 17, **wrong}
    assert problems(written, SPEC)
    if "poolmode" not in wrong.get("gateway", {}):  # unknown fields may come from a newer CRD
        with pytest.raises(spec.SpecError, match="spec"):
            spec.decode_spec(written)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_accepted_by_the_schema_and_by_the_operator(path: Path) -> None:
    clusters = clusters_of(path)
    assert clusters
    for cluster in clusters:
        stored = fill_defaults(cluster, SCHEMA)
        assert problems(stored, SCHEMA) == []
        assert spec.decode_spec(cluster["spec"]) == spec.decode_spec(stored["spec"])


def test_examples_are_listed_and_begin_with_a_comment() -> None:
    listed = (CHART / "examples" / "README.md").read_text()
    assert len(EXAMPLES) > 4
    for path in EXAMPLES:
        assert f"({path.name})" in listed
        assert path.read_text().startswith("# ")


def test_least_example_has_one_line_of_specification() -> None:
    (cluster,) = clusters_of(CHART / "examples" / "minimal.yaml")
    assert len(cluster["spec"]) == 1


def test_rules_name_the_field_and_say_what_to_do() -> None:
    for path, field in [*FIELDS.items(), ("", SCHEMA)]:
        for rule in rules_of(field):
            where = path.removeprefix(".") or "metadata.name"
            assert rule["message"].startswith(where), rule["message"]
            assert ": " in rule["message"] or " must " in rule["message"], rule["message"]
            assert "{path}" not in str(rule)


def test_rules_of_fields_name_fields_that_there_are() -> None:
    for path, field in FIELDS.items():
        for rule in rules_of(field):
            name = rule.get("fieldPath", "").removeprefix(".")
            assert not name or name in field["properties"], (path, rule)


def test_every_part_with_rules_has_them() -> None:
    resources = [path for path in FIELDS if path.endswith(".resources")]
    assert len(resources) == 4
    for path in resources:
        assert len(rules_of(FIELDS[path])) == len(crd_rules.TYPE_RULES["Resources"])
    assert len(rules_of(SCHEMA)) == 2


def test_settings_of_seawall_are_refused() -> None:
    (rule,) = (one for one in rules_of(SPEC) if "'fsync'" in one["rule"])
    for name in FIXED_NAMES - {"wal_level"}:
        assert f"'{name}'" in rule["rule"]
        assert f" {name}'" in rule["messageExpression"]


def test_columns_are_those_that_people_expect() -> None:
    (version,) = crd.resource_definition()["spec"]["versions"]
    columns = {one["name"]: one["jsonPath"] for one in version["additionalPrinterColumns"]}
    assert list(columns) == ["Instances", "Ready", "Status", "Primary", "Version", "Age"]
    for path in columns.values():
        assert path in FIELDS or path == ".metadata.creationTimestamp"


def test_autoscalers_find_what_they_need() -> None:
    (version,) = crd.resource_definition()["spec"]["versions"]
    scale = version["subresources"]["scale"]
    assert set(scale.values()) <= FIELDS.keys()
    assert FIELDS[scale["specReplicasPath"]]["type"] == "integer"


def test_type_that_no_structural_schema_can_say_is_refused() -> None:
    class Odd(msgspec.Struct):
        either: int | bool = 1

    with pytest.raises(crd.SchemaError, match=r"odd\.either"):
        crd._schema_of(Odd, "odd")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.title)
def test_case_for_the_rules_passes_the_schema(case: Case) -> None:
    for one in (case.old, case.new):
        if one is not None:
            assert problems(object_of(case, one), SCHEMA) == []


def test_each_rule_has_a_case_that_breaks_it() -> None:
    broken = [re.split(" from |; ", case.says)[0] for case in CASES if case.says]
    said = [rule["message"] for field in [SCHEMA, *FIELDS.values()] for rule in rules_of(field)]
    for rules in [crd_rules.ROOT_RULES, *crd_rules.TYPE_RULES.values()]:
        for rule in rules:
            of_rule = [text for text in said if text.endswith(rule.message.split("{path}")[-1])]
            assert any(text.startswith(start) for text in of_rule for start in broken), rule
