"""Which user PostgreSQL runs as: postgres refuses root, and so should whatever serves it.

As root we pick an unprivileged user of the machine; as anyone else we are that user already and
every function here does nothing. A process gives its rights up in one of two ways:

* a child process is started as the user (`Identity.subprocess_options`), or
* a process drops to the user for ever, once it has imported and opened what only root may (`drop`).

What deliberately is not here: creating users, sudo, capabilities. A machine without any of the
candidates is refused with a sentence.
"""

import ctypes
import errno
import os
import pwd
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

# The first that exists is taken. `postgres` owns the sockets and logs that administrators expect;
# `seawall` is for machines that give us a user; `nobody` is on every Linux.
CANDIDATE_USERS = ("postgres", "seawall", "nobody")

PR_SET_NO_NEW_PRIVS = 38  # from linux/prctl.h


class PrivilegeError(Exception):
    """No unprivileged user to run as, or root's rights could not be given up: fix the machine."""


class SubprocessOptions(TypedDict, total=False):
    """Arguments of subprocess.Popen that start the child as an identity; empty: as we are."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The user that PostgreSQL and all it touches belong to. Invariant: never root."""

    uid: int
    gid: int
    name: str
    home: Path

    def __post_init__(self) -> None:
        assert self.uid != 0, "an identity is an unprivileged user"

    def subprocess_options(self) -> SubprocessOptions:
        """How a child becomes this user; without further groups nothing is shared by accident."""
        if os.geteuid() != 0:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def give(self, path: Path) -> None:
        """Make a file or directory this user's own, never the target of a link."""
        if os.geteuid() == 0:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def give_tree(self, top: Path) -> None:
        """Make a directory and everything below it this user's own."""
        self.give(top)
        for folder, folders, files in os.walk(top):
            for name in (*folders, *files):
                self.give(Path(folder, name))

    def make_directory(self, path: Path) -> None:
        """Create a private directory of this user, or take over the one that exists."""
        if path.is_symlink():
            raise PrivilegeError(f"{path} is a symbolic link: name the directory itself")
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
        self.give(path)


def choose_identity(
    candidates: tuple[str, ...] = CANDIDATE_USERS,
    *,
    effective_uid: Callable[[], int] = os.geteuid,
) -> Identity:
    """Return whom to run PostgreSQL as: ourselves or, for root, the first candidate there is."""
    uid = effective_uid()
    if uid != 0:
        return _current_identity(uid)
    for name in candidates:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return _identity(entry)
    raise PrivilegeError(
        f"PostgreSQL does not run as root and none of the users {', '.join(candidates)} exists: "
        "create one (useradd --system seawall) or start Seawall as an ordinary user"
    )


def _identity(entry: pwd.struct_passwd) -> Identity:
    home = Path(entry.pw_dir)
    return Identity(
        uid=entry.pw_uid,
        gid=entry.pw_gid,
        name=entry.pw_name,
        home=home if home.is_dir() else Path("/"),
    )


def _current_identity(uid: int) -> Identity:
    try:
        known = _identity(pwd.getpwuid(uid))
    except KeyError:
        # Containers run under numbers that no passwd file knows. postgres itself does not mind.
        known = Identity(uid=uid, gid=os.getegid(), name=f"uid {uid}", home=Path("/"))
    home = Path(os.environ.get("HOME", ""))
    return replace(known, home=home) if home.is_absolute() and home.is_dir() else known


def drop(identity: Identity) -> None:
    """Become the identity for ever; afterwards neither this process nor a child can be root again.

    Call it after the last import and the last privileged open: modules may lie where the user
    cannot read. The order is the only one that works: groups while we may, the user last.
    """
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(identity.gid, identity.gid, identity.gid)
        os.setresuid(identity.uid, identity.uid, identity.uid)
        os.environ["HOME"] = str(identity.home)
    _refuse_new_privileges()
    _verify_dropped()


def _refuse_new_privileges() -> None:
    """Set-user-id programs run as we are from now on (PostgreSQL starts programs for its users)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise PrivilegeError(f"no_new_privs could not be set: {os.strerror(code)}")


def _verify_dropped() -> None:
    if 0 in os.getresuid() or 0 in os.getresgid():
        raise PrivilegeError("root's rights were not given up: a user or group id is still 0")
    try:
        os.setuid(0)
    except OSError as error:
        if error.errno == errno.EPERM:
            return
        raise
    raise PrivilegeError("root's rights could be regained after they were given up")


# Reachability: what the permission bits say about another user. Access control lists can make the
# answer wrong in either direction, so callers that run a program also try it.


def obstacle(identity: Identity, path: Path, *, executable: bool = False) -> Path | None:
    """Return what keeps the user from reading a file or listing a directory; None: nothing does."""
    real = Path(os.path.realpath(path))
    for parent in reversed(real.parents):
        if not _permits(identity, parent.stat(), stat.S_IXOTH):
            return parent
    status = real.stat()
    wanted = stat.S_IROTH
    if executable or stat.S_ISDIR(status.st_mode):
        wanted |= stat.S_IXOTH
    return None if _permits(identity, status, wanted) else real


def tree_obstacle(identity: Identity, top: Path) -> Path | None:
    """As `obstacle` for a whole directory, where files in a `bin` must be executable."""
    blocked = obstacle(identity, top)
    if blocked is not None:
        return blocked
    for path in _tree(top):
        status = path.stat()
        wanted = stat.S_IROTH
        if stat.S_ISDIR(status.st_mode) or path.parent.name == "bin":
            wanted |= stat.S_IXOTH
        if not _permits(identity, status, wanted):
            return path
    return None


def _tree(top: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(top):
        yield from (Path(folder, name) for name in folders)
        # A dangling link is not an obstacle to anybody.
        yield from (path for name in files if (path := Path(folder, name)).exists())


def _permits(identity: Identity, status: os.stat_result, wanted: int) -> bool:
    """Whether the bits that apply to the user (owner's, group's, others') include the wanted."""
    if status.st_uid == identity.uid:
        granted = status.st_mode >> 6
    elif status.st_gid == identity.gid:
        granted = status.st_mode >> 3
    else:
        granted = status.st_mode
    return granted & wanted == wanted


def home_environment(identity: Identity) -> Mapping[str, str]:
    """Return the variables that name the user to programs."""
    return {"HOME": str(identity.home), "USER": identity.name, "LOGNAME": identity.name}
