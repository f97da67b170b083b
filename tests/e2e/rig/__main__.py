"""The rig by hand: `cd tests && python -m e2e.rig up`."""

import argparse
import sys
from pathlib import Path

from . import build
from .errors import RigError
from .rig import Rig
from .usage import used

PASSED_ON = ("kubectl", "helm")  # with all that follows
NODE_ACTIONS = {
    "lose": "kill everything on it and take its network",
    "return": "switch it on again",
    "cut": "take its network alone",
    "mend": "give its network back",
    "pause": "stop its kubelet where it is",
    "resume": "let its kubelet go on",
}


def main() -> int:
    """Do what the command line says, and return the exit status."""
    arguments, words = _parser().parse_known_args()
    if words and arguments.command not in PASSED_ON:
        _parser().error(f"unknown: {' '.join(words)}")
    try:
        return _act(arguments, words)
    except RigError as error:
        print(f"rig: {error}", file=sys.stderr)  # noqa: T201  # a command line talks to its user
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="e2e.rig", description="A Kubernetes for tests.")
    parser.add_argument("--directory", type=Path, help="of the rig (default: below /run)")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="build the programs, and print where they are")
    commands.add_parser("up", help="start a rig, which stays until `down`")
    commands.add_parser("down", help="end it and remove every trace")
    commands.add_parser("status", help="show its programs")
    for name in PASSED_ON:
        commands.add_parser(name, help=f"run {name} for it", add_help=False, prefix_chars="\0")
    image = commands.add_parser("image-import", help="load an image archive into both nodes")
    image.add_argument("archive", type=Path)
    commands.add_parser("busybox", help="load an image of small tools, and print its name")
    node = commands.add_parser("node", help="let something befall a node")
    node.add_argument("name")
    told = "; ".join(f"{action}: {meaning}" for action, meaning in NODE_ACTIONS.items())
    node.add_argument("action", choices=NODE_ACTIONS, help=told)
    api = commands.add_parser("api", help="kill the API server, or start it again")
    api.add_argument("action", choices=("stop", "start"))
    return parser


def _act(arguments: argparse.Namespace, words: list[str]) -> int:
    rig = Rig(arguments.directory)
    match arguments.command:
        case "build":
            print(build.programs())  # noqa: T201  # the answer
        case "up":
            with used():
                rig.up()
        case "down":
            with used():
                rig.down()
        case "status":
            print("\n".join([*rig.status(), "up" if rig.running() else "not up"]))  # noqa: T201  # the answer
            return 0 if rig.running() else 1
        case "kubectl" | "helm":
            rig.attach().replace_process(arguments.command, tuple(words))
        case "image-import":
            rig.attach().image_import(arguments.archive)
        case "busybox":
            print(rig.attach().busybox())  # noqa: T201  # the answer
        case "node":
            _befall(rig.attach(), arguments.name, arguments.action)
        case "api":
            control = rig.attach().control
            (control.stop_api if arguments.action == "stop" else control.start_api)()
        case unknown:
            raise AssertionError(f"the parser let {unknown} through")
    return 0


def _befall(rig: Rig, name: str, action: str) -> None:
    node = rig.node(name)
    actions = {
        "lose": node.lose,
        "return": node.return_,
        "cut": node.cut,
        "mend": node.mend,
        "pause": node.pause_kubelet,
        "resume": node.resume_kubelet,
    }
    actions[action]()


if __name__ == "__main__":
    sys.exit(main())
