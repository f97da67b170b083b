"""A new cluster in a moment: the first cut, made of a template instead of by initdb.

    template = make_template(server, cache_dir, identity=identity)       # 1 s, once per server
    first = first_cut(template, system_identifier=..., nonce=..., taken_at_s=...)
    store.publish(branch, first.new, first.read_pages)
    await log_client.create_branch(branch, first.genesis, nodes, first.wal)

A template is what initdb makes, in a directory of its own, kept for all clusters of one server and
one set of options. It is made aside and renamed: who finds it finds all of it, makers do not mind
each other, and what a maker left that died is swept up.

A cluster gets a number and a nonce of its own, in pg_control. Its WAL does not begin with the
megabytes that initdb wrote, but with the next segment, and in that with one record: the
checkpoint at which initdb shut down, written anew, as pg_resetwal does it. So the first WAL has 160
bytes. It comes apart from the cut, because a cut has no WAL: the log begins with it, and every
compute, the first one included, gets it from there. (`write_first_wal` is for servers without one.)

No password is set: who may log in is the compute's configuration.
"""

import errno
import hashlib
import os
import secrets
import shutil
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fabric.ids import SystemIdentifier
from fabric.lsn import Lsn, wal_file_name
from log_service.record_bodies import Genesis
from sqlnode.control_file import (
    CONTROL_FILE,
    ControlFile,
    checkpoint_copy,
    crc32c,
    parse_control_file,
    with_checkpoint_at,
    with_identity,
)
from sqlnode.directory_source import describe_directory
from sqlnode.harvest import ChangedFile
from sqlnode.initdb import InitdbOptions, initdb
from sqlnode.page_source import relation_block
from sqlnode.pagefault.block_map import BLOCK_BYTES, Pages, verify_pages
from sqlnode.privileges import Identity
from sqlnode.servers import ServerBinaries

from .page_store import NewCut
from .wal_records import (
    CHECKPOINT_DATA_HEADER,
    LONG_HEADER,
    LONG_HEADER_BYTES,
    LONG_HEADER_FLAG,
    RECORD_HEAD,
    aligned,
)
from .wal_scan import CheckpointScanner

UNFINISHED_PREFIX: Final = ".making-"
UNFINISHED_AGE_S: Final = 3600  # ten times what initdb may take
_Options: Final = InitdbOptions()


class TemplateError(Exception):
    """A template is damaged, or of another server: remove it, so that it is made anew."""


@dataclass(frozen=True, slots=True)
class Template:
    """A cluster that was never started."""

    data_dir: Path
    server_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstCut:
    """All that a new cluster begins with."""

    new: NewCut
    genesis: Genesis
    wal: bytes  # from the genesis's start to the end of the cut's checkpoint
    template: Template

    def read_pages(self, path: str, first: int, count: int) -> Pages:
        """Return pages of a file, checked: for `PageStore.publish`."""
        with open(self.template.data_dir / path, "rb", buffering=0) as file:
            pages = os.pread(file.fileno(), count * BLOCK_BYTES, first * BLOCK_BYTES)
        relation = relation_block(path)
        is_whole = len(pages) == count * BLOCK_BYTES
        if not is_whole or (
            relation is not None and verify_pages(pages, first_block=relation + first) is not None
        ):
            raise TemplateError(f"{self.template.data_dir / path} is damaged: remove the template")
        return pages


# --- Templates --------------------------------------------------------------------------------


def make_template(
    server: ServerBinaries,
    cache_dir: Path,
    *,
    identity: Identity,
    options: InitdbOptions = _Options,
    unix_time_s: Callable[[], float] = time.time,
) -> Template:
    """Return the template of this server and these options; it takes a second when there is none.

    The user that initdb runs as must be able to reach the directory. In asyncio use a thread.
    """
    if options.password is not None or not options.data_checksums:
        raise ValueError("a template has data checksums, and no password: set that in the cluster")
    target = cache_dir / template_name(server, options)
    template = Template(target / "data", str(server.version))
    if not target.is_dir():
        cache_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
        _sweep(cache_dir, unix_time_s())
        unfinished = cache_dir / f"{UNFINISHED_PREFIX}{secrets.token_hex(8)}"
        try:
            identity.make_directory(unfinished)
            initdb(server, unfinished / "data", identity=identity, options=options)
            _rename_unless_there(unfinished, target)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return template


def template_name(server: ServerBinaries, options: InitdbOptions) -> str:
    """Return a name that changes with everything that initdb's result depends on."""
    digest = hashlib.sha256()
    for program in (server.postgres, server.bin_dir / "initdb"):
        status = program.stat()
        digest.update(f"{program}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    digest.update(f"{options.superuser}\0{options.locale}\0{options.wal_segment_mib}".encode())
    return f"{server.version}-{digest.hexdigest()[:16]}"


def _rename_unless_there(unfinished: Path, target: Path) -> None:
    try:
        unfinished.rename(target)
    except OSError as error:
        if error.errno not in {errno.EEXIST, errno.ENOTEMPTY}:
            raise
        return  # somebody else was faster, and has made the same
    descriptor = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sweep(cache_dir: Path, now_s: float) -> None:
    for path in cache_dir.glob(f"{UNFINISHED_PREFIX}*"):
        with suppress(FileNotFoundError):
            if now_s - path.stat().st_mtime > UNFINISHED_AGE_S:
                shutil.rmtree(path, ignore_errors=True)


# --- Clusters ---------------------------------------------------------------------------------


def new_system_identifier(
    unix_time_s: float, random_bytes: Callable[[int], bytes] = os.urandom
) -> SystemIdentifier:
    """Return a number that no other cluster has: the time, where PostgreSQL has it, and chance."""
    return SystemIdentifier(
        (int(unix_time_s) & 0xFFFFFFFF) << 32 | int.from_bytes(random_bytes(4), "big")
    )


def first_cut(
    template: Template, *, system_identifier: SystemIdentifier, nonce: bytes, taken_at_s: float
) -> FirstCut:
    """Make a cluster of a template. `nonce` is random and secret. Takes some milliseconds."""
    described = describe_directory(template.data_dir)
    old = described.small_files[str(CONTROL_FILE)]
    control = _checked(parse_control_file(old, template.data_dir), template)
    segment_bytes = control.wal_segment_bytes
    start = control.checkpoint.segment_start(segment_bytes) + segment_bytes
    content = with_identity(
        with_checkpoint_at(old, start + LONG_HEADER_BYTES),
        system_identifier=system_identifier,
        nonce=nonce,
    )
    wal = first_wal(_header_of(template, control), content, start, system_identifier)
    (checkpoint,) = CheckpointScanner(segment_bytes, start).feed(start, wal)
    return FirstCut(
        new=NewCut(
            tli=control.tli,
            lsn=checkpoint.end,
            redo=checkpoint.redo,
            taken_at_s=taken_at_s,
            files=[
                ChangedFile(
                    path=file.path,
                    blocks=file.blocks,
                    keep_blocks=0,
                    changed=list(range(file.blocks)),
                )
                for file in described.files
            ],
            removed=(),
            small_files={**described.small_files, str(CONTROL_FILE): content},
            directories=described.directories,
        ),
        genesis=Genesis(
            system_identifier=system_identifier,
            tli=control.tli,
            start=start,
            segment_bytes=segment_bytes,
            server_version=template.server_version,
        ),
        wal=wal,
        template=template,
    )


def first_wal(
    header: bytes, control: bytes, start: Lsn, system_identifier: SystemIdentifier
) -> bytes:
    """Return a segment's beginning: a page's header, and the checkpoint that pg_control has.

    `header` is that of another segment of the same server, which knows its own format.
    """
    magic, _, tli, _, _, _, segment_bytes, page_bytes = LONG_HEADER.unpack(header)
    page = LONG_HEADER.pack(
        magic, LONG_HEADER_FLAG, tli, start, 0, system_identifier, segment_bytes, page_bytes
    )
    body = CHECKPOINT_DATA_HEADER + checkpoint_copy(control)
    # A shutdown (0) of the manager of checkpoints (0); no transaction, and nothing before it.
    head = RECORD_HEAD.pack(RECORD_HEAD.size + len(body), 0, 0, 0, 0, 0, 0)[:-4]
    record = head + struct.pack("<I", crc32c(body + head)) + body
    return page + record.ljust(aligned(len(record)), b"\0")


def write_first_wal(genesis: Genesis, wal: bytes, directory: Path) -> Path:
    """Put the first WAL where the first compute's postgres looks for it: in a segment's file."""
    path = directory / wal_file_name(genesis.tli, genesis.start, genesis.segment_bytes)
    with path.open("xb") as file:
        path.chmod(0o600)
        file.write(wal)
        file.truncate(genesis.segment_bytes)
    return path


def _checked(control: ControlFile, template: Template) -> ControlFile:
    if control.major != int(template.server_version.partition(".")[0]):
        raise TemplateError(f"{template.data_dir} is not of PostgreSQL {template.server_version}")
    return control


def _header_of(template: Template, control: ControlFile) -> bytes:
    name = wal_file_name(control.tli, control.checkpoint, control.wal_segment_bytes)
    with (template.data_dir / "pg_wal" / name).open("rb") as file:
        header = file.read(LONG_HEADER_BYTES)
    if len(header) < LONG_HEADER_BYTES:
        raise TemplateError(f"{template.data_dir} has no WAL: remove the template")
    return header
