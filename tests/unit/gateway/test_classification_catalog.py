"""A catalog is made of rows: what is stable, and which relations lead to what is not."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.classification.catalog import Catalog, FunctionRow, ViewRow, catalog_of
from gateway.classification.classifier import read

FUNCTIONS: list[FunctionRow] = [
    ("lower", False, False, False),
    ("now", False, False, False),
    ("random", False, True, False),
    ("gen_random_uuid", True, True, True),  # of an extension, too
    ("nextval", False, True, True),
    ("pg_stat_get_numscans", False, False, False),
    ("pg_is_in_recovery", False, True, True),
    ("audit", True, False, True),
    ("two_arguments", True, False, False),
]


def catalog(views: list[ViewRow]) -> Catalog:
    return catalog_of(FUNCTIONS, [("<~>",)], views)


def test_function_is_stable_if_all_of_its_name_are() -> None:
    found = catalog([])
    assert found.stable_functions == {"lower", "now", "random"}
    assert found.volatile_operators == {"<~>"}


def test_harmless_function_is_judged_by_the_overloads_of_users() -> None:
    assert "random" in catalog([]).stable_functions
    assert "gen_random_uuid" not in catalog([]).stable_functions


def test_function_that_a_column_can_name_is_known() -> None:
    assert catalog([]).volatile_functions == {
        "audit",
        "gen_random_uuid",
        "nextval",
        "pg_is_in_recovery",
    }
    assert not read(b"SELECT t.audit FROM t", catalog([])).reads_only
    assert read(b"SELECT t.two_arguments FROM t", catalog([])).reads_only


def test_view_is_as_safe_as_its_definition() -> None:
    found = catalog(
        [
            ("plain", " SELECT a, lower(b) AS b FROM s.t;"),
            ("calling", " SELECT audit(a) FROM t;"),
            ("operating", " SELECT 1 WHERE a <~> b;"),
            ("statistics", " SELECT * FROM pg_stat_activity;"),
            ("settings_of_server", " SELECT current_setting('port');"),
            ("locking", " SELECT * FROM t FOR UPDATE;"),
            ("sequence", None),
            ("nonsense", "SELEC"),
            ("other_statement", "DELETE FROM t"),
            ("two_statements", "SELECT 1; SELECT 2"),
            ("too_deep", "SELECT 1" + "+1" * 5000),
        ]
    )
    assert found.unsafe_views == {
        "calling",
        "operating",
        "statistics",
        "settings_of_server",
        "locking",
        "sequence",
        "nonsense",
        "other_statement",
        "two_statements",
        "too_deep",
    }
    assert not read(b"SELECT * FROM s.calling", found).reads_only
    assert read(b"SELECT * FROM plain", found).reads_only


def test_view_of_an_unsafe_view_is_unsafe_to_a_fixed_point() -> None:
    found = catalog(
        [
            ("e", "SELECT * FROM d"),
            ("d", "SELECT * FROM t WHERE x IN (SELECT x FROM s.c)"),
            ("c", "SELECT * FROM b JOIN t USING (x)"),
            ("b", "SELECT audit(x) FROM t"),
            ("a", "SELECT * FROM t"),
            ("of_a", "SELECT * FROM a"),
        ]
    )
    assert found.unsafe_views == {"b", "c", "d", "e"}


def test_policy_makes_its_table_unsafe_and_its_views() -> None:
    found = catalog(
        [
            ("safe", "SELECT 1 WHERE tenant = lower('x')"),
            ("audited", "SELECT 1 WHERE audit(tenant)"),
            ("v", "SELECT * FROM audited"),
        ]
    )
    assert found.unsafe_views == {"audited", "v"}


def test_one_definition_of_several_with_a_name_is_enough() -> None:
    found = catalog([("v", "SELECT audit(1)"), ("v", "SELECT 1")])
    assert found.unsafe_views == {"v"}


@given(
    st.dictionaries(
        st.integers(min_value=0, max_value=12),
        st.tuples(st.booleans(), st.sets(st.integers(min_value=0, max_value=12), max_size=3)),
    ),
    st.randoms(use_true_random=False),
)
def test_unsafe_views_are_all_from_which_an_unsafe_one_is_reached(
    graph: dict[int, tuple[bool, set[int]]], order: object
) -> None:
    rows: list[ViewRow] = []
    for number, (is_bad, others) in graph.items():
        tables = "".join(f", v{other} AS x{other}" for other in sorted(others))
        rows.append((f"v{number}", f"SELECT {'audit(1)' if is_bad else '1'} FROM t{tables}"))
    order.shuffle(rows)  # type: ignore[attr-defined]  # a random.Random

    def reaches(number: int, seen: frozenset[int]) -> bool:
        is_bad, others = graph.get(number, (False, set()))
        return is_bad or any(reaches(other, seen | {other}) for other in others - seen)

    expected = {f"v{number}" for number in graph if reaches(number, frozenset({number}))}
    assert catalog(rows).unsafe_views == expected
