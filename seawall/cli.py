"""The arguments of the command line. What the commands do is in `cluster_commands.py`."""

from pathlib import Path
from typing import Annotated, Final

import typer

from fabric.rpc_errors import RpcError
from fabric.tls import IdentityError
from sqlnode.privileges import PrivilegeError
from sqlnode.servers import ServerError

from . import cluster_commands as commands
from .local.cluster_file import ClusterError
from .local.layout import Layout

app: Final = typer.Typer(
    name="seawall",
    help="Cloud-native PostgreSQL: one that cannot lose a commit, from unmodified binaries.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Directory = Annotated[
    Path | None,
    typer.Option("--dir", metavar="D", help="The cluster's directory; default: the user's own."),
]


def run(arguments: list[str]) -> int:
    """Run a command of a local cluster; the exit status."""
    try:
        app(arguments, prog_name="seawall", standalone_mode=True)
    except (ClusterError, IdentityError, OSError, PrivilegeError, RpcError, ServerError) as error:
        typer.echo(f"seawall: {error}", err=True)
        return 1
    except KeyboardInterrupt:
        return 130
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 1
    return 0


def _layout(directory: Path | None) -> Layout:
    return commands.layout_of(directory)


def _leave(status: int) -> None:
    raise typer.Exit(status)


@app.command()
def up(
    directory: Directory = None,
    *,
    ha: Annotated[
        bool, typer.Option("--ha", help="3 log nodes, 2 storage nodes, 2 computes.")
    ] = False,
    port: Annotated[
        int | None, typer.Option(help="Of the first compute; default: 5432 or the next free one.")
    ] = None,
    pg_version: Annotated[
        int | None, typer.Option(metavar="MAJOR", help="15, 16, 17 or 18; default: the newest.")
    ] = None,
    pg_bin: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Directory of a PostgreSQL's programs.")
    ] = None,
    computes: Annotated[int | None, typer.Option(help="How many; default 1, with --ha 2.")] = None,
    gateway_port: Annotated[
        int | None, typer.Option(help="Of the gateway; default: 6432 or another free one.")
    ] = None,
    no_gateway: Annotated[
        bool, typer.Option("--no-gateway", help="Only the direct addresses.")
    ] = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return when it is up; it runs on.")
    ] = False,
) -> None:
    """Start a cluster, or take over one that runs without a supervisor."""
    from .local.up import Wishes  # noqa: PLC0415  # other commands need none of this

    wishes = Wishes(
        ha=ha, port=port, pg_version=pg_version, pg_bin=pg_bin, computes=computes,
        gateway=not no_gateway, gateway_port=gateway_port,
    )  # fmt: skip
    _leave(commands.up(_layout(directory), wishes, is_detached=detach))


@app.command()
def down(directory: Directory = None) -> None:
    """Stop the cluster; its data stays."""
    _leave(commands.down(_layout(directory)))


@app.command()
def destroy(
    directory: Directory = None,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Stop the cluster and delete it with all its data."""
    _leave(commands.destroy(_layout(directory), is_sure=yes))


@app.command()
def status(
    directory: Directory = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Again and again, until interrupted.")
    ] = False,
    show_password: Annotated[
        bool, typer.Option("--show-password", help="URLs with the password in them.")
    ] = False,
) -> None:
    """Show every node, and how to connect; exit status 3 if there is no primary."""
    layout = _layout(directory)
    _leave(commands.status(layout, as_json=as_json, watches=watch, shows_password=show_password))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def psql(context: typer.Context, directory: Directory = None) -> None:
    """Run psql on the primary; all other arguments are psql's."""
    _leave(commands.psql(_layout(directory), context.args))


@app.command()
def failover(directory: Directory = None) -> None:
    """Make a replica the primary at once, without waiting for the old primary."""
    _leave(commands.switch(_layout(directory), None, by_force=True))


@app.command()
def switchover(
    name: Annotated[str | None, typer.Argument(help="Default: the furthest replica.")] = None,
    directory: Directory = None,
) -> None:
    """Make a replica the primary after the old one has shut down in order."""
    _leave(commands.switch(_layout(directory), name, by_force=False))


@app.command()
def scale(
    computes: Annotated[int, typer.Option(help="How many computes there should be.")],
    directory: Directory = None,
) -> None:
    """Change the number of computes."""
    _leave(commands.scale(_layout(directory), computes))


@app.command()
def restart(
    nodes: Annotated[list[str] | None, typer.Argument(help="Which; default: all.")] = None,
    directory: Directory = None,
) -> None:
    """Restart nodes one after the other, the primary last."""
    _leave(commands.restart(_layout(directory), nodes or []))


@app.command()
def logs(
    node: Annotated[str | None, typer.Argument(help="Which; default: all.")] = None,
    directory: Directory = None,
    *,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with what comes.")] = False,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, help="Of each log.")] = 20,
) -> None:
    """Print the ends of the nodes' logs."""
    _leave(commands.logs(_layout(directory), node, follows=follow, lines=lines))


@app.command()
def doctor(directory: Directory = None) -> None:
    """Explain what is wrong and what to do; exit status 0 if nothing is."""
    _leave(commands.doctor(_layout(directory)))


@app.command(
    add_help_option=False,
    context_settings={
        "allow_extra_args": True,
        "allow_interspersed_args": False,
        "ignore_unknown_options": True,
    },
)
def bench(context: typer.Context) -> None:
    """Measure this machine's Seawall beside other systems; `seawall bench --help` says what."""
    from .bench_command import run_bench  # noqa: PLC0415  # other commands need none of this

    _leave(run_bench(context.args))


# These are argparse's (see __main__.py), which never lets them come here; for the list of commands.


@app.command(add_help_option=False)
def log() -> None:
    """Look at the log of any cluster, change its members, check a directory."""


@app.command(add_help_option=False)
def storage() -> None:
    """Look at storage nodes of any cluster, check what one has."""


@app.command(add_help_option=False)
def demo() -> None:
    """Lose a primary, boot a replacement that has no data, and look at it."""
