"""A small language to tell what a group does, and the text of what it did.

A transcript is a file of paragraphs. The first says what the story shows; the others are commands,
one a line, and, after `----`, what happened. Lines with # are for the reader.

    add-nodes 3 learners=1 election_ticks=5     the last ones are RaftSettings
    campaign 1          propose 1 5 bytes=10    config 1 voters=1,2 learners=3    transfer 1 2
    tick 1 10           pass-time 10 (all)      read 1 77        trim 1 4         rest 1
    deliver 1>2 [n]     deliver-all             drop 1>2         cut 3            heal
    slow-disk 1         fast-disk 1             persist 1 [n]    crash 1          restart 1
    hide-log 1          show-log 1              unreachable 1 2  leader-unreachable 2
    add-empty 4         show                    reverse 1>2 (what is on the link arrives backwards)
    propose-batch 1 5 bytes=10 (one Ready for all)              quietly COMMAND (tells nothing)

Members are numbers, `1>2` is a link, `7/2` is entry 7 of term 2.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Final, assert_never

from unit.raft.group import Group, Link, Node

from raft.core import Ready
from raft.errors import RaftError
from raft.messages import (
    Append,
    AppendReply,
    Message,
    Restore,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)
from raft.settings import RaftSettings
from raft.types import Config, Entry

SEPARATOR: Final = "----"
SETTINGS: Final = frozenset(one.name for one in fields(RaftSettings))


def run(text: str) -> str:
    """Carry out the commands of a transcript; return it with what happened now."""
    player = Player()
    paragraphs = []
    for paragraph in text.strip().split("\n\n"):
        commands, separator, _ = paragraph.partition(f"\n{SEPARATOR}")
        if separator:
            lines = [line for command in commands.splitlines() for line in player.play(command)]
            paragraphs.append("\n".join([commands, SEPARATOR, *(lines or ["ok"])]))
        else:
            paragraphs.append(paragraph)
    return "\n\n".join(paragraphs) + "\n"


@dataclass
class Player:
    """Plays commands on one group, and tells what every member does."""

    group: Group = field(default_factory=lambda: Group(0))
    lines: list[str] = field(default_factory=list)
    states: dict[int, str] = field(default_factory=dict)
    readys_told: dict[int, int] = field(default_factory=dict)
    commits: dict[int, int] = field(default_factory=dict)

    def play(self, line: str) -> list[str]:
        """Carry out one command; return what happened, a line each."""
        if line.startswith("#"):
            return []
        is_quiet = line.startswith("quietly ")
        name, *words = line.removeprefix("quietly ").split()
        options = dict(word.split("=", 1) for word in words if "=" in word)
        plain = [word for word in words if "=" not in word]
        self.lines = []
        try:
            COMMANDS[name](self, plain, options)
        except RaftError as error:
            self.lines.append(f"{type(error).__name__}: {error}")
        self.tell()
        return [] if is_quiet else self.lines

    def tell(self) -> None:
        """Tell what the members did since the last time."""
        for me, node in self.group.nodes.items():
            if node.is_up:
                node.drain()
            else:
                self.commits[me] = 0  # a restart learns it anew
            for ready in node.readys[self.readys_told.get(me, 0) :]:
                self.tell_ready(me, ready)
            self.readys_told[me] = len(node.readys)
            raft = node.raft
            state = f"{raft.role.value} t{raft.term}" + (f" of {raft.leader}" * bool(raft.leader))
            if node.is_up and self.states.get(me, state) != state:
                self.lines.append(f"{me} is {state}")
            self.states[me] = state

    def tell_ready(self, me: int, ready: Ready) -> None:
        """Tell what a Ready asks for, but for the messages, which are told when they arrive."""
        told = describe_ready(ready)
        if ready.commit_index > self.commits.get(me, 0):
            told.append(f"commits {ready.commit_index}")
            self.commits[me] = ready.commit_index
        if told:
            self.lines.append(f"{me} {'; '.join(told)}")

    def on_message(self, message: Message, is_delivered: bool) -> None:
        """Tell about a message, after what was before it."""
        self.tell()
        self.lines.append(describe_message(message) + ("" if is_delivered else "  (lost)"))

    def start(self, words: list[str], options: dict[str, str]) -> None:
        """Make the group."""
        settings = {key: int(value) for key, value in options.items() if key in SETTINGS}
        self.group = Group(
            int(words[0]),
            learners=int(options.get("learners", 0)),
            # mypy cannot know which settings are flags and which numbers.
            settings=RaftSettings(**settings),  # type: ignore[arg-type]
        )
        self.group.on_message = self.on_message

    def node(self, words: list[str]) -> Node:
        """The member that the first word names."""
        return self.group.nodes[int(words[0])]

    def show(self) -> None:
        """Tell the state of every member."""
        for me, node in self.group.nodes.items():
            self.lines += describe_node(me, node) if node.is_up else [f"{me} is down"]


def describe_node(me: int, node: Node) -> list[str]:
    """What a member has and knows."""
    raft = node.raft
    about = f"{me} {raft.role.value} t{raft.term} log {raft.start_index}..{raft.last_index}"
    about += f" terms {node.terms} commit {raft.commit_index} {members(raft.config)}"
    return [about + " may rest" * raft.can_rest()] + [
        f"  {peer} {known.state.value} match {known.match_index} next {known.next_index}"
        + " silent" * (not known.is_active)
        for peer, known in raft.progress().items()
    ]


def members(config: Config) -> str:
    """A configuration in words."""
    learners = f" learners {sorted(config.learners)}" if config.learners else ""
    return f"voters {sorted(config.voters)}{learners}"


def describe_entry(entry: Entry) -> str:
    """An entry in words."""
    return f"{entry.index}/{entry.term}" + (f" {members(entry.config)}" if entry.config else "")


def describe_ready(ready: Ready) -> list[str]:
    """What a Ready has for the log and the readers."""
    told = []
    if ready.hard_state is not None:
        told.append(f"writes t{ready.hard_state.term} vote {ready.hard_state.vote}")
    if ready.restore is not None:
        told.append(f"starts anew after {ready.restore.index}/{ready.restore.term}")
    if ready.entries:
        told.append("appends " + ", ".join(describe_entry(entry) for entry in ready.entries))
    return told + [f"reads {context} at {index}" for context, index in ready.reads]


def describe_message(message: Message) -> str:
    """A message in one line."""
    match message:
        case VoteRequest():
            kind = "pre-vote" if message.is_pre else "vote"
            text = f"{kind}? log {message.last_index}/{message.last_term}"
            text += " by transfer" * message.is_transfer
        case VoteReply():
            kind = "pre-vote" if message.is_pre else "vote"
            text = f"{kind} {'yes' if message.granted else 'no'}"
        case Append():
            entries = ", ".join(describe_entry(entry) for entry in message.entries)
            text = f"append after {message.prev_index}/{message.prev_term} [{entries}]"
            text += f" commit {message.commit} round {message.context}"
        case AppendReply(rejected=True):
            text = f"no: try {message.hint_index}/{message.hint_term} round {message.context}"
        case AppendReply():
            text = f"has {message.match_index} round {message.context}"
        case Restore():
            text = f"start after {message.snapshot.index}/{message.snapshot.term}"
        case TimeoutNow():
            text = "take over"
        case _:
            assert_never(message)
    return f"{message.sender}>{message.to} t{message.term} {text}"


def _link(word: str) -> Link:
    sender, _, to = word.partition(">")
    return int(sender), int(to)


def _numbers(text: str) -> frozenset[int]:
    return frozenset(int(number) for number in text.split(",") if number)


def _count(words: list[str]) -> int | None:
    return int(words[1]) if len(words) > 1 else None


def _propose_batch(node: Node, count: int, size_bytes: int) -> None:
    for _ in range(count):
        node.raft.propose(size_bytes, "ref")
    node.drain()


def _set_disk(node: Node, *, is_slow: bool) -> None:
    node.is_disk_slow = is_slow
    if not is_slow:
        node.persist()


def _set_log(node: Node, *, is_at_hand: bool) -> None:
    node.log.is_at_hand = is_at_hand
    if is_at_hand:
        node.raft.entries_available()


def _config(options: dict[str, str]) -> Config:
    return Config(_numbers(options["voters"]), _numbers(options.get("learners", "")))


Command = Callable[[Player, list[str], dict[str, str]], object]
COMMANDS: dict[str, Command] = {
    "add-nodes": Player.start,
    "add-empty": lambda p, w, o: p.group.add(int(w[0])),
    "campaign": lambda p, w, o: p.node(w).raft.campaign(),
    "propose": lambda p, w, o: p.group.propose(int(w[0]), _count(w) or 1, int(o.get("bytes", 1))),
    "config": lambda p, w, o: p.node(w).raft.propose_config(_config(o)),
    "transfer": lambda p, w, o: p.node(w).raft.transfer(int(w[1])),
    "propose-batch": lambda p, w, o: _propose_batch(p.node(w), _count(w) or 1, int(o["bytes"])),
    "read": lambda p, w, o: p.node(w).raft.read_index(int(w[1])),
    "tick": lambda p, w, o: p.group.tick(int(w[0]), _count(w) or 1),
    "pass-time": lambda p, w, o: p.group.pass_time(int(w[0])),
    "rest": lambda p, w, o: p.node(w).raft.rest(),
    "trim": lambda p, w, o: p.node(w).trim(int(w[1])),
    "deliver": lambda p, w, o: p.group.deliver(_link(w[0]), _count(w)),
    "deliver-all": lambda p, w, o: p.group.deliver_all(),
    "reverse": lambda p, w, o: p.group.reverse(_link(w[0])),
    "drop": lambda p, w, o: p.group.drop(_link(w[0])),
    "cut": lambda p, w, o: p.group.cut(*map(int, w)),
    "heal": lambda p, w, o: p.group.heal(),
    "slow-disk": lambda p, w, o: _set_disk(p.node(w), is_slow=True),
    "fast-disk": lambda p, w, o: _set_disk(p.node(w), is_slow=False),
    "persist": lambda p, w, o: p.node(w).persist(_count(w)),
    "crash": lambda p, w, o: p.node(w).crash(),
    "restart": lambda p, w, o: p.node(w).restart(),
    "hide-log": lambda p, w, o: _set_log(p.node(w), is_at_hand=False),
    "show-log": lambda p, w, o: _set_log(p.node(w), is_at_hand=True),
    "unreachable": lambda p, w, o: p.node(w).raft.peer_unreachable(int(w[1])),
    "leader-unreachable": lambda p, w, o: p.node(w).raft.leader_unreachable(),
    "show": lambda p, w, o: p.show(),
}
