"""Container images: what the Dockerfiles promise, and that an image with musl is refused.

In scope: rules that the Dockerfiles keep, each with an example that breaks it; check-image, run on
small trees in place of an image; what of this machine a build is told, and the archive's format.
Out of scope: a build, which needs minutes and mirrors (see images/README.md).
"""

import hashlib
import importlib
import importlib.util
import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
IMAGES = ROOT / "images"
SCRIPTS = ("add-user", "check-image", "offline-base", "python-tree", "seawall", "seawall-node",
           "with-mirrors")  # fmt: skip
ENTRY_POINT = "/opt/seawall/bin/seawall-node"
TARGETS = {
    "seawall.Dockerfile": {"log": "log_service", "gateway": "gateway", "operator": "kube_operator"},
    "compute.Dockerfile": {"compute": "sqlnode.compute", "storage": "storage"},
}
GLIBC = "/lib64/ld-linux-x86-64.so.2"
MUSL = "/lib/ld-musl-x86_64.so.1"


@pytest.fixture(autouse=True)
def images_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The modules of images/ import each other as a script's neighbours do."""
    monkeypatch.syspath_prepend(str(IMAGES))


def build_script() -> ModuleType:
    """Return images/build as a module: its name has no suffix, like any command's."""
    loader = SourceFileLoader("images_build", str(IMAGES / "build"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:  # dataclasses look their module up
        patch.setitem(sys.modules, loader.name, module)
        loader.exec_module(module)
    return module


# --- Dockerfiles ----------------------------------------------------------------------------------


@dataclass
class Stage:
    """One FROM and what follows."""

    name: str
    parent: str
    steps: list[tuple[str, str]] = field(default_factory=list)


def stages(text: str) -> dict[str, Stage]:
    """Read a Dockerfile: the instructions by stage; what comes before the first is left out."""
    found: dict[str, Stage] = {}
    stage = None
    uncommented = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)
    for line in uncommented.replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            parent, _, name = rest.partition(" AS ")
            stage = found[name] = Stage(name, parent)
        elif word and stage is not None:
            stage.steps.append((word, " ".join(rest.split())))
    return found


def last(found: dict[str, Stage], name: str, word: str) -> str | None:
    """Return what an instruction says in a stage, or in those that it is made from."""
    while name in found:
        said = [rest for step, rest in found[name].steps if step == word]
        if said:
            return said[-1]
        name = found[name].parent
    return None


def dockerfile_findings(text: str, targets: dict[str, str]) -> Iterator[str]:
    """Say what is wrong with a Dockerfile, one sentence each."""
    found = stages(text)
    for target, module in targets.items():
        user = last(found, target, "USER") or "root"
        if not re.fullmatch(r"[1-9]\d*:[1-9]\d*", user):
            yield f"{target} runs as {user}: runAsNonRoot needs a number"
        if last(found, target, "ENTRYPOINT") != json.dumps([ENTRY_POINT, module]):
            yield f"{target} does not become {module}"
        if last(found, target, "STOPSIGNAL") != "SIGTERM":
            yield f"{target} is not told to stop as our components are"
    for stage in found.values():
        for word, rest in stage.steps:
            yield from _step_findings(word, rest)


def _step_findings(word: str, rest: str) -> Iterator[str]:
    if word == "ADD":
        yield f"ADD {rest}: it fetches and unpacks; COPY what is there"
    if word in {"ARG", "ENV"} and re.search(r"(?i)pass|secret|token|key|index|proxy|mirror", rest):
        yield f"{word} {rest}: it stays in the image's history; mount a secret"
    if word == "RUN" and re.search(r"https?://", rest):
        yield f"RUN {rest}: the address of a mirror is the machine's to know"
    if word == "RUN":
        script = re.sub(r"--mount=\S+", "", rest)
        told = set(re.findall(r"--mount=type=secret,id=(\w+),mode=0444,target=/run/seawall/", rest))
        if re.search(r"with-mirrors (\S*/)?pip\b", script) and not {"pip_conf"} <= told:
            yield "pip runs without the machine's settings"
        if "with-mirrors apt-get" in script and not {"apt_list", "apt_sources", "apt_conf"} <= told:
            yield "apt-get runs without the machine's sources"
        if re.search(r"(?<!with-mirrors )\bapt-get (-\S+ )*(update|install)", script):
            yield "apt-get does not ask the machine's mirrors"
        if re.search(r"(?<!with-mirrors )venv/bin/pip (?!.*--no-index)", script):
            yield "pip does not ask the machine's mirrors"


@pytest.mark.parametrize("name", TARGETS)
def test_a_dockerfile_keeps_the_rules(name: str) -> None:
    assert list(dockerfile_findings((IMAGES / name).read_text(), TARGETS[name])) == []


GOOD = f"""\
FROM debian AS node
USER 10001:10001
STOPSIGNAL SIGTERM
FROM node AS log
ENTRYPOINT ["{ENTRY_POINT}", "log_service"]
"""


@pytest.mark.parametrize(
    ("broken", "finding"),
    [
        (GOOD.replace("USER 10001:10001\n", ""), "log runs as root"),
        (GOOD.replace("10001:10001", "seawall"), "log runs as seawall"),
        (GOOD.replace("10001:10001", "0:0"), "log runs as 0:0"),
        (GOOD + "USER 0\n", "log runs as 0"),
        (GOOD.replace("log_service", "storage"), "does not become log_service"),
        (GOOD.replace("SIGTERM", "SIGINT"), "is not told to stop"),
        (GOOD + "ADD archive.tar /\n", "ADD archive.tar"),
        (GOOD + "ARG PIP_INDEX_URL=\n", "stays in the image's history"),
        (GOOD + "ENV NPM_TOKEN=x\n", "stays in the image's history"),
        (GOOD + "RUN curl \\\n  https://example.org\n", "the address of a mirror"),
        (GOOD + "RUN apt-get -qq install gcc\n", "does not ask the machine's mirrors"),
        (GOOD + "RUN /build/with-mirrors apt-get update\n", "without the machine's sources"),
        (GOOD + "RUN with-mirrors venv/bin/pip install x\n", "without the machine's settings"),
        (GOOD + "RUN cd /x && \\\n venv/bin/pip install x\n", "does not ask the machine's mirrors"),
    ],
)  # fmt: skip
def test_each_rule_can_fail(broken: str, finding: str) -> None:
    assert list(dockerfile_findings(GOOD, {"log": "log_service"})) == []
    assert any(finding in text for text in dockerfile_findings(broken, {"log": "log_service"}))


def test_entry_points_are_modules_that_can_be_run() -> None:
    modules = {module for targets in TARGETS.values() for module in targets.values()}
    for module in modules - {"kube_operator"}:
        assert importlib.util.find_spec(f"{module}.__main__") is not None


def test_our_code_is_the_last_layer() -> None:
    """Whatever changes with each line of code comes behind what does not."""
    for name in TARGETS:
        node = stages((IMAGES / name).read_text())["node"]
        copied = [rest for word, rest in node.steps if word == "COPY"]
        assert copied[-1].endswith("/opt/seawall/app /opt/seawall/app")


def test_what_is_copied_is_in_the_context(tmp_path: Path) -> None:
    context = tmp_path / "context"
    build_script().stage_context(context)
    for name in TARGETS:
        for stage in stages((IMAGES / name).read_text()).values():
            for word, rest in stage.steps:
                if word == "COPY" and not rest.startswith("--from"):
                    assert all((context / source).exists() for source in rest.split()[:-1])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for package in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
        assert (context / package).is_dir()
    assert (context / "sqlnode" / "pagefault" / "pagefault.c").is_file()
    assert not [*context.rglob("__pycache__"), *context.rglob("*.so")]
    assert {path.stat().st_mtime for path in context.rglob("*")} == {build_script().EPOCH_S}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_one_that_any_shell_reads(name: str) -> None:
    assert (IMAGES / name).stat().st_mode & 0o111 == 0o111
    subprocess.run(["/bin/sh", "-n", IMAGES / name], check=True)


# --- check-image ----------------------------------------------------------------------------------


def program(root: Path, path: str, loader: str | None) -> None:
    """A file that begins as a program with that loader does."""
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    named = b"" if loader is None else loader.encode() + b"\0"
    file.write_bytes(b"\x7fELF\x02\x01\x01".ljust(568, b"\0") + named + bytes(range(256)) * 32)


def check(root: Path) -> tuple[int, str]:
    done = subprocess.run(
        [IMAGES / "check-image", root], check=False, capture_output=True, text=True, timeout=30
    )
    assert done.stdout == ""
    return done.returncode, done.stderr.replace(str(root), "")


@pytest.mark.parametrize(
    "postgres",
    ["usr/local/bin/postgres", "usr/lib/postgresql/17/bin/postgres", "usr/pgsql-16/bin/postgres",
     "opt/vendor/postgresql/bin/postgres"],
)  # fmt: skip
def test_a_server_on_musl_is_refused_with_a_way_out(tmp_path: Path, postgres: str) -> None:
    program(tmp_path, postgres, MUSL)
    status, said = check(tmp_path)
    assert status == 1
    assert f"/{postgres} is loaded by musl ({MUSL}), not by glibc" in said
    assert "postgres:17 (Debian) in place of postgres:17-alpine" in said
    assert said.count("\n") == 1


@pytest.mark.skipif(shutil.which("busybox") is None, reason="there is no busybox here")
def test_the_tools_of_an_image_on_musl_are_enough(tmp_path: Path) -> None:
    """BusyBox's may know less than GNU's: all that the script calls is taken from there."""
    program(tmp_path, "usr/local/bin/postgres", MUSL)
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "head", "tr", "grep", "ldd"):
        (tools / name).symlink_to(shutil.which("busybox") or "")
    done = subprocess.run(
        [tools / "sh", IMAGES / "check-image", tmp_path],
        check=False, capture_output=True, text=True, timeout=30, env={"PATH": str(tools)},
    )  # fmt: skip
    assert done.returncode == 1
    assert "is loaded by musl" in done.stderr


def test_an_image_on_musl_is_refused_although_it_can_run_glibc_programs(tmp_path: Path) -> None:
    """Alpine with gcompat has a glibc loader by name; what its own shell is linked with tells."""
    program(tmp_path, MUSL[1:], None)
    program(tmp_path, GLIBC[1:], None)
    program(tmp_path, "bin/sh", MUSL)
    status, said = check(tmp_path)
    assert status == 1
    assert f"this image is built on musl ({MUSL}), not on glibc" in said


def test_a_server_on_glibc_is_taken(tmp_path: Path) -> None:
    program(tmp_path, "usr/lib/postgresql/15/bin/postgres", GLIBC)
    program(tmp_path, "usr/lib/postgresql/17/bin/postgres", "/lib/ld-linux-aarch64.so.1")
    program(tmp_path, "bin/sh", GLIBC)
    assert check(tmp_path) == (0, "")


def test_musl_as_a_package_of_a_glibc_image_is_no_harm(tmp_path: Path) -> None:
    program(tmp_path, "usr/lib/postgresql/15/bin/postgres", GLIBC)
    program(tmp_path, "bin/sh", GLIBC)
    program(tmp_path, MUSL[1:], None)
    assert check(tmp_path) == (0, "")


def test_a_script_named_postgres_is_not_judged(tmp_path: Path) -> None:
    """What it starts is for the agent to examine."""
    wrapper = tmp_path / "usr" / "local" / "bin" / "postgres"
    wrapper.parent.mkdir(parents=True)
    wrapper.write_text("#!/bin/sh\nexec /somewhere/postgres\n")
    assert check(tmp_path) == (0, "")


# --- what a build is told -------------------------------------------------------------------------


def test_pips_environment_has_the_last_word() -> None:
    listed = ":env:.proxy='simple:one'\nglobal.proxy='simple:two'\nglobal.timeout='9'\n"
    settings = importlib.import_module("machine").pip_settings(listed)
    assert settings == {"proxy": "simple:one", "timeout": "9"}


def test_a_build_is_told_of_mirrors_and_of_nothing_else() -> None:
    settings = {
        "index-url": "simple:one",
        "find-links": "/opt/wheels https://wheels.example",
        "target": "/elsewhere",
        "cert": "/etc/authorities.pem",
    }
    text = importlib.import_module("machine").pip_conf(settings)
    assert text.replace(" =", "") == (
        "[global]\nfind-links\n    https://wheels.example\nindex-url\n    simple:one\n"
    )


def test_only_how_mirrors_are_reached_is_taken_of_apt() -> None:
    dump = (
        'APT "";\nAPT::Install-Recommends "true";\nAcquire "";\nAcquire::Languages "none";\n'
        'Acquire::http::Proxy "proxy:1";\nAcquire::Check-Valid-Until "false";\n'
    )
    assert importlib.import_module("machine").apt_conf(dump) == (
        'Acquire::http::Proxy "proxy:1";\nAcquire::Check-Valid-Until "false";\n'
    )


def test_a_folder_of_wheels_counts_when_it_has_some(tmp_path: Path) -> None:
    wheel_folder = importlib.import_module("machine").wheel_folder
    full = tmp_path / "full"
    full.mkdir()
    (full / "a-1-py3-none-any.whl").touch()
    assert wheel_folder(f"{tmp_path} https://wheels.example {full}") == full
    assert wheel_folder(str(tmp_path)) is None


def test_all_of_a_machines_sources_are_told(tmp_path: Path) -> None:
    parts = tmp_path / "apt" / "sources.list.d"
    parts.mkdir(parents=True)
    (tmp_path / "apt" / "sources.list").write_text("deb mirror:a suite main\n")
    (parts / "b.list").write_text("deb mirror:b suite main")
    (parts / "c.sources").write_text("Types: deb\nURIs: mirror:c")
    (parts / "d.sources").write_text("Types: deb\nURIs: mirror:d\n")
    (parts / "e.list.disabled").write_text("deb mirror:e suite main\n")
    (tmp_path / "authorities").write_text("certificates")
    (tmp_path / "secrets").mkdir()
    secrets = importlib.import_module("machine").machine_secrets(
        tmp_path / "secrets",
        etc_apt=tmp_path / "apt",
        environment={"PIP_CERT": str(tmp_path / "authorities")},
    )
    texts = {name: path.read_text() for name, path in secrets.files.items()}
    assert re.findall(r"mirror:\w", texts["apt_list"]) == ["mirror:a", "mirror:b"]
    assert texts["apt_sources"].split("\n\n")[0] == "Types: deb\nURIs: mirror:c"
    assert re.findall(r"mirror:\w", texts["apt_sources"]) == ["mirror:c", "mirror:d"]
    assert set(texts) == {"pip_conf", "apt_list", "apt_sources", "apt_conf", "ca_certificates"}


# --- the archive ----------------------------------------------------------------------------------


def archive(path: Path, config: str, layers: list[str]) -> Path:
    """What an engine writes, with a member of another format."""
    manifest = [{"Config": config, "RepoTags": ["localhost/one"], "Layers": layers}]
    members = {name: name.encode() for name in layers}
    members[config] = json.dumps(
        {"os": "linux", "config": {"User": "7", "Entrypoint": ["x"]}}
    ).encode()
    members |= {"manifest.json": json.dumps(manifest).encode(), "repositories": b"{}"}
    with tarfile.open(path, "w") as written:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            written.addfile(member, io.BytesIO(content))
    return path


def test_roles_share_layers_and_have_entry_points_of_their_own(tmp_path: Path) -> None:
    single = archive(tmp_path / "one.tar", "one.json", ["base.tar", "code.tar"])
    roles = {"seawall/log:1": ("start", "log"), "seawall/gateway:1": ("start", "gateway")}
    importlib.import_module("archive").write_roles(single, roles, tmp_path / "roles.tar")
    with tarfile.open(tmp_path / "roles.tar") as written:
        contents = {}
        for member in written:
            file = written.extractfile(member)
            assert file is not None
            assert member.name not in contents
            contents[member.name] = file.read()
    found = {}
    for image in json.loads(contents.pop("manifest.json")):
        content = contents.pop(image["Config"])
        assert image["Config"] == f"{hashlib.sha256(content).hexdigest()}.json"
        assert image["Layers"] == ["base.tar", "code.tar"]
        config = json.loads(content)
        assert config["os"] == "linux"
        assert config["config"]["User"] == "7"
        (tag,) = image["RepoTags"]
        found[tag] = tuple(config["config"]["Entrypoint"])
    assert found == roles
    assert contents == {"base.tar": b"base.tar", "code.tar": b"code.tar"}
    assert not list(tmp_path.glob(".*"))


def test_the_archive_has_the_entry_points_of_the_dockerfiles() -> None:
    script = build_script()
    assert script.ENTRY_POINT == ENTRY_POINT
    assert list(TARGETS.values()) == [script.NODE_TARGETS, script.POSTGRES_TARGETS]
