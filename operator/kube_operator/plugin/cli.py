"""The arguments of `kubectl seawall`. What the commands do is in `commands.py`."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final

import typer

from kube_operator.names import Component

from . import commands
from .kubectl import Kubectl, PluginError

WAIT_S: Final = 90  # the operator gives a switchover up after 60

app: Final = typer.Typer(
    name="kubectl seawall",
    help="PostgresClusters: how they are, another primary, their logs, psql.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The cluster.")]
Namespace = Annotated[
    str | None,
    typer.Option("--namespace", "-n", metavar="NS", help="Default: that of the context."),
]
Kubeconfig = Annotated[
    str | None, typer.Option("--kubeconfig", metavar="FILE", help="Default: as kubectl.")
]
Context = Annotated[str | None, typer.Option("--context", metavar="C", help="Of the kubeconfig.")]


class Output(StrEnum):
    """How `status` is printed."""

    JSON = "json"


@dataclass(frozen=True, slots=True)
class _Caller:
    environment: Mapping[str, str]

    def kubectl(
        self, namespace: str | None, kubeconfig: str | None, context: str | None
    ) -> Kubectl:
        return Kubectl(
            self.environment, namespace=namespace, kubeconfig=kubeconfig, context=context
        )


def run(arguments: list[str], environment: Mapping[str, str]) -> int:
    """Run a command; the exit status."""
    try:
        app(arguments, prog_name="kubectl seawall", obj=_Caller(environment))
    except (PluginError, OSError) as error:
        typer.echo(f"kubectl seawall: {error}", err=True)
        return 1
    except KeyboardInterrupt:
        return 130
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 1
    return 0


def _caller(context: typer.Context) -> _Caller:
    found = context.obj
    assert isinstance(found, _Caller), "run() gives one"
    return found


@app.command()
def status(
    caller: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Default: all of the namespace.")
    ] = None,
    *,
    output: Annotated[Output | None, typer.Option("--output", "-o", help="For programs.")] = None,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Show every node; exit status 3 if a cluster is not Ready."""
    kubectl = _caller(caller).kubectl(namespace, kubeconfig, context)
    raise typer.Exit(commands.status(kubectl, name, as_json=output is Output.JSON))


@app.command()
def switchover(
    caller: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Default: the only one there is.")
    ] = None,
    *,
    to: Annotated[
        str | None, typer.Option(metavar="COMPUTE", help="Default: the replica that is furthest.")
    ] = None,
    wait: Annotated[bool, typer.Option(help="Whether to wait until it is done.")] = True,
    timeout: Annotated[
        int, typer.Option(metavar="SECONDS", min=1, help="How long to wait.")
    ] = WAIT_S,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Make another compute the primary, without losing anything."""
    kubectl = _caller(caller).kubectl(namespace, kubeconfig, context)
    done = commands.switchover(kubectl, name, to, waits=wait, wait_s_max=timeout)
    raise typer.Exit(done)


@app.command()
def logs(
    caller: typer.Context,
    name: Name,
    *,
    component: Annotated[
        Component | None, typer.Option("--component", help="Only of these pods.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on.")] = False,
    tail: Annotated[int, typer.Option(metavar="LINES", min=0, help="Of each pod.")] = 20,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Print the ends of the logs, as kubectl logs does."""
    kubectl = _caller(caller).kubectl(namespace, kubeconfig, context)
    commands.logs(kubectl, name, component, follows=follow, lines=tail)


@app.command()
def psql(
    caller: typer.Context,
    name: Name,
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[-- ARGUMENTS]", help="Of psql itself.")
    ] = None,
    *,
    gateway: Annotated[
        bool,
        typer.Option("--gateway", help="This machine's psql through a gateway, with the password."),
    ] = False,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Run psql in the primary's pod."""
    kubectl = _caller(caller).kubectl(namespace, kubeconfig, context)
    given, environment = arguments or (), _caller(caller).environment
    if not gateway:
        commands.psql(kubectl, name, given, environment)
    raise typer.Exit(commands.psql_by_gateway(kubectl, name, given, environment))
