"""What becomes of Secrets in a cluster in memory. Passwords are real, and what they are made into;
certificates are texts (model_trust.py).
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from fabric.certificates import Pem
from kube_operator import actions
from kube_operator.kube_port import POD, SECRET
from kube_operator.manifests import authority, secrets

from .model_trust import authority_secret, certificate_secret, merge, require

if TYPE_CHECKING:
    from kube_operator.kube_port import Json

    from .model_cluster import ModelCluster


def change_secrets(cluster: ModelCluster, action: actions.SecretAction) -> None:
    """Do it, unless it must never be done."""
    names, there = cluster.names, cluster.objects[SECRET]
    match action:
        case actions.MakeAuthority():
            require(names.authority_secret not in there, "an authority is made once")
            cluster.apply(SECRET, authority_secret(names, cluster.next(), cluster.now))
        case actions.MakePasswords():
            require(names.superuser_secret not in there, "passwords are made once")
            made = secrets.superuser_secret(names)
            password = secrets.decoded(made["data"], "password").decode()
            cluster.apply(SECRET, made)
            cluster.apply(SECRET, secrets.internal_secret(names, password))
        case actions.MakeCertificate(_, node):
            signer = there[names.authority_secret]
            made = certificate_secret(names, node, signer, cluster.next(), cluster.now)
            cluster.apply(SECRET, made)
        case actions.TakePassword():
            superuser, internal = there[names.superuser_secret], there[names.internal_secret]
            forms, statements = secrets.taken(names, superuser, internal)
            merge(superuser, forms)
            merge(internal, statements)
        case actions.Rotate(step, signer):
            _rotate(cluster, step, signer)


def _rotate(cluster: ModelCluster, step: authority.Step, signer: str) -> None:
    secret = cluster.objects[SECRET][cluster.names.authority_secret]
    require(authority.authority_in(secret).signer == signer, "it was not done already")
    changes = _changes(cluster, step, secret)
    cluster.processes.keep(cluster.objects[POD])
    cluster.processes.verify_step(changes, secret)
    cluster.rotations.append(step)
    merge(secret, changes)


def _changes(cluster: ModelCluster, step: authority.Step, secret: Json) -> Json:
    match step:
        case authority.Step.INTRODUCED:
            made = Pem(f"CA-{cluster.next()}".encode(), b"key")
            return authority.introduced(made, cluster.now)
        case authority.Step.SUCCEEDED:
            renew = cluster.now + timedelta(days=5 * 365)
            return authority.succeeded(secret, cluster.now, renew=renew)
        case authority.Step.SETTLED:
            return authority.ended(cluster.now)
