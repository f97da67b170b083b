"""Who PostgreSQL runs as, and that root's rights are gone for good once they are dropped.

In scope: the choice, reachability by permission bits, dropping for real when the tests run as root.
Out of scope: copying servers, see tests/integration/test_server_copy.py.
"""

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from sqlnode.privileges import (
    Identity,
    PrivilegeError,
    choose_identity,
    obstacle,
    tree_obstacle,
)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can drop its rights")
STRANGER = Identity(uid=4_000_001, gid=4_000_001, name="stranger", home=Path("/"))

DROP = """
import os, subprocess, sys
from pathlib import Path
from sqlnode.privileges import Identity, drop
drop(Identity(uid={uid}, gid={gid}, name="x", home=Path("{home}")))
print(os.getresuid(), os.getresgid(), os.getgroups(), os.environ["HOME"])
print(open("/proc/self/status").read())
for regain in (lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.setgroups([0])):
    try:
        regain()
    except PermissionError:
        print("refused")
"""


def test_ordinary_user_stays_who_it_is() -> None:
    entry = pwd.getpwnam("nobody")
    identity = choose_identity(effective_uid=lambda: entry.pw_uid)
    assert (identity.uid, identity.name) == (entry.pw_uid, "nobody")
    assert identity.home.is_dir()


def test_home_of_an_ordinary_user_is_what_its_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = pwd.getpwnam("nobody").pw_uid
    monkeypatch.setenv("HOME", str(tmp_path))
    assert choose_identity(effective_uid=lambda: nobody).home == tmp_path
    assert choose_identity(("nobody",), effective_uid=lambda: 0).home != tmp_path
    monkeypatch.setenv("HOME", str(tmp_path / "missing"))
    assert choose_identity(effective_uid=lambda: nobody).home.is_dir()


def test_user_without_a_name_is_accepted() -> None:
    identity = choose_identity(effective_uid=lambda: 4_000_002)
    assert identity.name == "uid 4000002"


def test_root_takes_the_first_user_that_exists_and_is_not_root() -> None:
    candidates = ("no-such-user", "root", "nobody")
    identity = choose_identity(candidates, effective_uid=lambda: 0)
    assert identity.name == "nobody"


def test_machine_without_any_user_is_refused() -> None:
    with pytest.raises(PrivilegeError, match="none of the users no-such-user exists: create one"):
        choose_identity(("no-such-user",), effective_uid=lambda: 0)


def test_identity_is_never_root() -> None:
    with pytest.raises(AssertionError):
        Identity(uid=0, gid=0, name="root", home=Path("/"))


@pytest.mark.skipif(os.geteuid() == 0, reason="as root they do something")
def test_ordinary_user_needs_no_options_and_gives_nothing(tmp_path: Path) -> None:
    assert STRANGER.subprocess_options() == {}
    STRANGER.give(tmp_path)
    assert tmp_path.stat().st_uid == os.geteuid()


@needs_root
def test_dropped_process_cannot_regain_root() -> None:
    identity = choose_identity()
    script = DROP.format(uid=identity.uid, gid=identity.gid, home=identity.home)
    result = subprocess.run(
        [sys.executable, "-c", script],
        check=True,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": os.pathsep.join(sys.path), "HOME": "/root"},
        timeout=60,
    )
    uid, gid = identity.uid, identity.gid
    assert result.stdout.startswith(f"{(uid,) * 3} {(gid,) * 3} [] {identity.home}\n")
    assert "NoNewPrivs:\t1" in result.stdout
    assert "CapEff:\t0000000000000000" in result.stdout
    assert "CapPrm:\t0000000000000000" in result.stdout
    assert result.stdout.count("refused") == 3


@needs_root
def test_child_is_started_as_the_identity_without_other_groups() -> None:
    identity = choose_identity()
    output = subprocess.run(
        ["/usr/bin/id"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
        **identity.subprocess_options(),
    ).stdout
    assert output.startswith(f"uid={identity.uid}({identity.name}) gid={identity.gid}(")
    assert "root" not in output


@needs_root
def test_given_tree_belongs_to_the_identity_but_not_what_links_point_to(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.touch()
    tree = tmp_path / "tree"
    (tree / "deep").mkdir(parents=True)
    (tree / "deep" / "file").touch()
    (tree / "link").symlink_to(outside)
    STRANGER.give_tree(tree)
    owners = {path.name: path.lstat().st_uid for path in (tree, *tree.rglob("*"))}
    assert owners == dict.fromkeys(("tree", "deep", "file", "link"), STRANGER.uid)
    assert outside.stat().st_uid == 0


def test_private_directory_is_not_made_through_a_link(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    link = tmp_path / "link"
    link.symlink_to(target)
    with pytest.raises(PrivilegeError, match="is a symbolic link"):
        choose_identity().make_directory(link)


# Reachability.


@pytest.fixture
def open_tree(tmp_path: Path) -> Path:
    """A tree that everybody can read, as far as it is ours: pytest's own parents are private."""
    tree = tmp_path / "tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin" / "program").touch()
    (tree / "bin" / "program").chmod(0o755)
    (tree / "share").mkdir()
    (tree / "share" / "text").touch()
    (tree / "share" / "text").chmod(0o644)
    (tree / "dangling").symlink_to("nowhere")
    for folder in (tree, tree / "bin", tree / "share"):
        folder.chmod(0o755)
    return tree


def test_private_parent_is_the_obstacle(open_tree: Path) -> None:
    private = open_tree.parent
    private.chmod(0o700)
    assert obstacle(STRANGER, open_tree / "share" / "text") in {private, *private.parents}


def test_owner_passes_where_others_do_not(open_tree: Path) -> None:
    file = open_tree / "share" / "text"
    file.chmod(0o600)
    assert_reachable_to_here(open_tree)
    assert obstacle(STRANGER, file) == file
    status = file.stat()
    if status.st_uid != 0:
        owner = Identity(uid=status.st_uid, gid=status.st_gid, name="owner", home=Path("/"))
        assert obstacle(owner, file) is None


def assert_reachable_to_here(tree: Path) -> None:
    """Open pytest's parents; they are ours, and the test's own directory goes away with them."""
    for parent in tree.parents:
        if parent.stat().st_uid == os.geteuid() and parent.is_relative_to("/tmp"):  # noqa: S108  # pytest's
            parent.chmod(parent.stat().st_mode | 0o755)


@pytest.mark.parametrize(
    ("name", "mode"),
    [("bin/program", 0o644), ("share/text", 0o600), ("share", 0o644), ("bin", 0o700)],
)
def test_unreadable_part_of_a_tree_is_found(open_tree: Path, name: str, mode: int) -> None:
    assert_reachable_to_here(open_tree)
    assert tree_obstacle(STRANGER, open_tree) is None
    (open_tree / name).chmod(mode)
    assert tree_obstacle(STRANGER, open_tree) == open_tree / name
    (open_tree / name).chmod(0o755)
