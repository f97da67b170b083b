"""The certificate authority of a local cluster: its own, made with it, trusted by nobody else.

Every node has a certificate with its identity, `seawall://cluster/role/node` (see fabric/tls.py);
the owner of the cluster has one as an administrator. Certificates are renewed at a start when half
of their time is over; the CA lives as long as the cluster.
"""

import datetime
from pathlib import Path
from typing import Final

from fabric.ids import ClusterName, NodeName, Role
from fabric.tls import Identity, TlsFiles

from .cluster_file import ClusterError, replace_file
from .layout import Layout

AUTHORITY_DAYS: Final = 3650 * 2
NODE_DAYS: Final = 730
RENEW_AFTER_S: Final = NODE_DAYS * 86_400 // 2
HOSTS: Final = ("localhost", "127.0.0.1")  # for libpq, which may verify host names
ADMIN: Final = NodeName("owner")


def make_authority(layout: Layout, cluster: ClusterName) -> None:
    """Make the CA unless there is one."""
    layout.authority.mkdir(mode=0o755, exist_ok=True)
    if layout.ca_file.exists():
        return
    from fabric import certificates  # noqa: PLC0415  # 0.1 s that only the first start needs

    made = certificates.make_authority(f"Seawall CA of {cluster}", days=AUTHORITY_DAYS)
    # The certificate last: where it is, the key is, too.
    replace_file(layout.ca_key_file, made.key, mode=0o600)
    replace_file(layout.ca_file, made.certificate, mode=0o644)


def needs_certificate(certificate: Path, key: Path, *, now_s: float) -> bool:
    """Whether there is none, or it has lived half of its life."""
    try:
        return not key.exists() or now_s - certificate.stat().st_mtime >= RENEW_AFTER_S
    except FileNotFoundError:
        return True


def issue(layout: Layout, identity: Identity, certificate: Path, key: Path) -> None:
    """Make a key, and the certificate that says whose it is."""
    from fabric import certificates  # noqa: PLC0415  # 0.1 s that only the first start needs

    try:
        ca = certificates.Pem(layout.ca_file.read_bytes(), layout.ca_key_file.read_bytes())
        made = certificates.issue(ca, identity, days=NODE_DAYS, hosts=HOSTS)
    except (OSError, certificates.AuthorityError) as error:
        raise ClusterError(
            f"the certificate authority in {layout.authority} cannot be used ({error}): bring its "
            "files back from a backup"
        ) from error
    replace_file(key, made.key, mode=0o600)
    replace_file(certificate, made.certificate, mode=0o644)


def admin_files(layout: Layout) -> TlsFiles:
    """Return what the owner of the cluster calls its nodes with."""
    return TlsFiles(
        ca_file=str(layout.ca_file),
        certificate_file=str(layout.authority / "owner.crt"),
        key_file=str(layout.authority / "owner.key"),
    )


def days_left(certificate: Path, *, now: datetime.datetime) -> int:
    """Return for how many days a certificate is still good; ClusterError if it cannot be read."""
    from fabric import certificates  # noqa: PLC0415  # 0.1 s that only `doctor` needs

    try:
        _, not_after = certificates.validity(certificate.read_bytes())
    except (OSError, ValueError) as error:
        raise ClusterError(f"{certificate} cannot be read: {error}") from error
    return (not_after - now).days


def admin_identity(cluster: ClusterName) -> Identity:
    """Return who the owner of the cluster is to its nodes."""
    return Identity(cluster, Role.ADMIN, ADMIN)
