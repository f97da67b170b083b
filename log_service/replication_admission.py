"""Who may read a branch's WAL from a log node: decided from facts about the connection. Pure.

A reader names the branch as its user, `cluster.branch`, because that is the one thing that every
stock client lets one choose. It is let in

- by its certificate, when that is of the same cluster and of a role that reads WAL;
- by the password of the branch (SCRAM), over TLS or from this machine;
- without either from this machine only, and only where that has been allowed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Self

from fabric.ids import BranchName, ClusterName, Role
from fabric.tls import Identity
from pgwire.errors import ProtocolError
from pgwire.scram import ScramVerifier
from pgwire.server_handshake import Decision, Refuse, Scram, Trust
from pgwire.startup import StartupMessage

READER_ROLES: Final = frozenset({Role.COMPUTE, Role.LOG, Role.STORAGE})
APPLICATION_NAME_CHARACTERS_MAX: Final = 63  # as PostgreSQL cuts it

_NOT_AUTHORIZED: Final = "28000"  # invalid_authorization_specification
_NOT_SUPPORTED: Final = "0A000"  # feature_not_supported
_PHYSICAL: Final = frozenset({"true", "on", "yes", "1"})


class NotAReaderError(ProtocolError):
    """The start-up packet does not ask for what is served here."""

    sqlstate = _NOT_SUPPORTED


@dataclass(frozen=True, slots=True, kw_only=True)
class Applicant:
    """Who wants to read which branch, and what is known about it."""

    cluster: ClusterName
    branch: BranchName
    application_name: str
    identity: Identity | None  # from its certificate
    is_local: bool  # a Unix socket or loopback
    is_encrypted: bool

    @property
    def group(self) -> str:
        """The branch's name among all that a node may hold."""
        return f"{self.cluster}.{self.branch}"

    @classmethod
    def of(
        cls,
        startup: StartupMessage,
        *,
        identity: Identity | None,
        is_local: bool,
        is_encrypted: bool,
    ) -> Self:
        """Read the start-up packet; NotAReaderError if it asks for anything but WAL."""
        parameters = startup.parameters
        if parameters.get("replication", "").lower() not in _PHYSICAL:
            raise NotAReaderError(
                "only physical replication is served here: connect to the primary for SQL"
            )
        cluster, branch = _names(parameters.get("user", ""))
        name = parameters.get("application_name", "")[:APPLICATION_NAME_CHARACTERS_MAX]
        return cls(
            cluster=cluster,
            branch=branch,
            application_name="".join(c if c.isprintable() else "?" for c in name),
            identity=identity,
            is_local=is_local,
            is_encrypted=is_encrypted,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """The rules of one node."""

    trusts_local: bool = False
    verifiers: Mapping[str, ScramVerifier] = field(default_factory=dict)  # by group
    mock_secret: bytes = field(default=b"", repr=False)  # hides which groups have a password
    binding_data: bytes | None = None  # of our own certificate: tls_server_end_point

    def decide(self, applicant: Applicant) -> Decision:
        """Return what the applicant has to show."""
        if applicant.identity is not None:
            return _decide_by_certificate(applicant, applicant.identity)
        if applicant.is_local and self.trusts_local:
            return Trust()
        if self.verifiers and (applicant.is_local or applicant.is_encrypted):
            verifier = self.verifiers.get(applicant.group)
            binding_data = self.binding_data if applicant.is_encrypted else None
            hidden = ScramVerifier.mock(applicant.group, self.mock_secret)
            return Scram(verifier or hidden, binding_data)
        return Refuse(
            _NOT_AUTHORIZED,
            "reading WAL from here needs a certificate, or a password over TLS",
            "Set sslmode, sslcert and sslkey in the connection string.",
        )


def _decide_by_certificate(applicant: Applicant, identity: Identity) -> Decision:
    if identity.cluster == applicant.cluster and identity.role in READER_ROLES:
        return Trust()
    return Refuse(_NOT_AUTHORIZED, f"{identity} may not read WAL of cluster {applicant.cluster}")


def _names(user: str) -> tuple[ClusterName, BranchName]:
    cluster, _, branch = user.partition(".")
    try:
        return ClusterName(cluster), BranchName(branch)
    except ValueError as error:
        raise NotAReaderError(f"the user must be cluster.branch: {error}") from error
