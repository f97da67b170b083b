"""Settings come from a file and from variables, are checked whole, and never show a secret."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest

from fabric.ids import ClusterName
from fabric.rpc import RpcSettings
from fabric.settings import SettingsError, load, secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """A section."""

    pages_max: Annotated[int, msgspec.Meta(ge=1)] = 1000
    mode: Literal["fast", "safe"] = "safe"

    def __post_init__(self) -> None:
        if self.mode == "fast" and self.pages_max < 10:
            raise ValueError("mode fast needs 10 pages: raise pages_max")


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """A section with a secret."""

    user: str
    password: str | None = secret()


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """The settings of an imaginary component."""

    cluster: ClusterName
    data_dir: Path = Path("/var/lib/seawall")
    peers: tuple[str, ...] = ()
    ratio: float = 0.5
    verbose: bool = False
    cache: Cache = field(default_factory=Cache)
    login: Login | None = None


def write(directory: Path, text: str) -> Path:
    path = directory / "node.toml"
    path.write_text(text)
    return path


def test_defaults_hold_where_nothing_is_given() -> None:
    settings = load(Node, None, {"SEAWALL_CLUSTER": "blue", "HOME": "/root"})
    assert settings == Node(cluster=ClusterName("blue"))
    assert type(settings.cluster) is ClusterName


def test_a_file_fills_fields_and_sections(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        'cluster = "blue"\ndata_dir = "/data"\npeers = ["a", "b"]\nverbose = true\n'
        '[cache]\npages_max = 5\n[login]\nuser = "postgres"\n',
    )
    assert load(Node, path, {}) == Node(
        cluster=ClusterName("blue"),
        data_dir=Path("/data"),
        peers=("a", "b"),
        verbose=True,
        cache=Cache(pages_max=5),
        login=Login(user="postgres"),
    )


def test_a_variable_wins_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, 'cluster = "blue"\n[cache]\npages_max = 5\nmode = "safe"\n')
    environ = {
        "SEAWALL_CLUSTER": "green",
        "SEAWALL_CACHE_PAGES_MAX": "70",
        "SEAWALL_RATIO": "0.25",
        "SEAWALL_VERBOSE": "true",
        "SEAWALL_PEERS": '["x"]',
        "SEAWALL_LOGIN_USER": "admin",
    }
    settings = load(Node, path, environ)
    assert settings.cluster == "green"
    assert settings.cache == Cache(pages_max=70)
    assert (settings.ratio, settings.verbose, settings.peers) == (0.25, True, ("x",))
    assert settings.login == Login(user="admin")


def test_another_prefix_separates_components() -> None:
    environ = {"SEAWALL_CLUSTER": "green", "AGENT_CLUSTER": "blue"}
    assert load(Node, None, environ, prefix="AGENT").cluster == "blue"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('cluster = "Blue!"', "cluster: a cluster name is"),
        ('cluster = "blue"\ncolour = 1', "colour is unknown"),
        ('cluster = "blue"\nverbos = true', "did you mean verbose"),
        (
            'cluster = "blue"\n[cache]\npages = 1',
            r"cache\.pages is unknown: .* pages_max",
        ),
        ('cluster = "blue"\n[cache]\npages_max = "1"', r"cache\.pages_max: Expected `int`"),
        ('cluster = "blue"\n[cache]\npages_max = 0', r"cache\.pages_max: .*>= 1"),
        ('cluster = "blue"\n[cache]\nmode = "wild"', r"cache\.mode: .*wild"),
        ('cluster = "blue"\n[cache]\nmode = "fast"\npages_max = 1', r"\[cache\]: mode fast"),
        ('cluster = "blue"\ncache = 5', r"cache must be a table"),
        ('cluster = "blue"\n[login]\npassword_file = "x"', r"login\.user is missing"),
        ("verbose = true", "cluster is missing: set it or SEAWALL_CLUSTER"),
        ("cluster = ", "cannot read settings file"),
        ("a = " + "[" * 5000, "cannot read settings file"),
        ("#" * (1024 * 1024 + 1), "exceeds"),
    ],
)
def test_a_mistake_in_the_file_is_named_in_one_sentence(
    tmp_path: Path, text: str, complaint: str
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(SettingsError, match=complaint) as caught:
        load(Node, path, {})
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"absent\.toml"):
        load(Node, tmp_path / "absent.toml", {})


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("SEAWALL_VERBOS", "1", "SEAWALL_VERBOS is unknown: did you mean SEAWALL_VERBOSE"),
        ("SEAWALL_CACHE", "{}", "SEAWALL_CACHE is unknown"),
        ("SEAWALL_RATIO", "half", "SEAWALL_RATIO: Expected `float`"),
        ("SEAWALL_CACHE_PAGES_MAX", "0", "SEAWALL_CACHE_PAGES_MAX: .*>= 1"),
        ("SEAWALL_PEERS", "[1", "SEAWALL_PEERS is not JSON"),
    ],
)
def test_a_mistake_in_a_variable_is_named(name: str, value: str, complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint):
        load(Node, None, {"SEAWALL_CLUSTER": "blue", name: value})


def test_a_secret_comes_from_a_variable_or_a_file_and_is_not_shown(tmp_path: Path) -> None:
    kept = tmp_path / "password"
    kept.write_text("hunter2\n")
    base = {"SEAWALL_CLUSTER": "blue", "SEAWALL_LOGIN_USER": "postgres"}
    ways = [
        (None, {"SEAWALL_LOGIN_PASSWORD": "hunter2"}),
        (None, {"SEAWALL_LOGIN_PASSWORD_FILE": str(kept)}),
        (write(tmp_path, f'[login]\npassword_file = "{kept}"'), {}),
    ]
    for path, environ in ways:
        settings = load(Node, path, base | environ)
        assert settings.login is not None
        assert settings.login.password == "hunter2"  # noqa: S105 - the example
        assert "hunter2" not in repr(settings)


def test_a_secret_in_the_settings_file_is_refused_and_not_shown(tmp_path: Path) -> None:
    path = write(tmp_path, 'cluster = "blue"\n[login]\nuser = "u"\npassword = "hunter2"')
    with pytest.raises(SettingsError, match="password_file") as caught:
        load(Node, path, {})
    assert "hunter2" not in str(caught.value)


def test_a_secret_given_twice_or_unreadable_is_refused_and_not_shown(tmp_path: Path) -> None:
    base = {"SEAWALL_CLUSTER": "blue", "SEAWALL_LOGIN_USER": "u"}
    binary = tmp_path / "binary"
    binary.write_bytes(b"hunter2\xff")
    mistakes = [
        ({"SEAWALL_LOGIN_PASSWORD": "hunter2", "SEAWALL_LOGIN_PASSWORD_FILE": "x"}, "both"),
        ({"SEAWALL_LOGIN_PASSWORD_FILE": str(tmp_path / "absent")}, "cannot read .*absent"),
        ({"SEAWALL_LOGIN_PASSWORD_FILE": str(binary)}, "UTF-8"),
    ]
    for environ, complaint in mistakes:
        with pytest.raises(SettingsError, match=complaint) as caught:
            load(Node, None, base | environ)
        assert "hunter2" not in str(caught.value)


@dataclass(frozen=True)
class Ambiguous:
    """A field and a section that share a variable."""

    cache_mode: str = ""
    cache: Cache = field(default_factory=Cache)


def test_two_fields_with_one_variable_are_a_mistake_of_the_type() -> None:
    with pytest.raises(TypeError, match="SEAWALL_CACHE_MODE"):
        load(Ambiguous, None, {})


def test_the_settings_of_rpc_load_and_are_checked() -> None:
    assert load(RpcSettings, None, {}) == RpcSettings()
    with pytest.raises(SettingsError, match="SEAWALL_HEARTBEAT_MS"):
        load(RpcSettings, None, {"SEAWALL_HEARTBEAT_MS": "0"})
