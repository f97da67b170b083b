"""What a snapshot consists of, what stays and what may go: decided without I/O.

Layers. A snapshot adds one layer of what changed since the one before it. Left alone they would
become many (each of them is asked for every page at a restore) and large (what was written over is
still in them). So:

    pages in layers > 2 x pages of the cut   a full layer; nothing of the old ones is needed
    as many layers as LAYERS_GOAL            the smallest are merged into the new one

What merges is at least half of the layers, and more while the next one is no larger than all that
merge already: so sizes stay apart, and a page is written again as often as their number doubles.
A merged layer has the pages of the cut that is stored, not those of the layers that merge, and lies
on top. So any layers can merge, whatever lies between them, and nothing has to be fetched but their
indexes.

What may go. Manifests go as cuts do (retention.py); the one with the highest number always stays.
A part goes when no manifest that stays names it, and the manifest for which it was made exists or
existed, that is, one has its number or a higher one. Why no writer can lose a part by that which it
is about to name, however slow it is, and however many of them share a chain:

1. A number is given once at most, to the manifest after the highest: a manifest is made by creating
   an object, and the highest is never deleted.
2. A manifest n names parts made for n, and parts of its base, which is the manifest that was the
   highest when n was chosen. So the base is n's predecessor.
3. Parts made for n go only if somebody saw n or a higher number. Whoever still works on n then
   cannot get it any more, and starts again with parts made for a later one.
4. Parts of the highest manifest are named by one that stays. So as long as nobody has made n, those
   of its base are there; and once n is made it is n that names them.

Whoever has lost n may still find what he reads gone, an index that he merges or the manifest n
itself, and starts again too.

What is left: somebody who sleeps while n is made, followed by others and deleted, can create n once
more. It does not become the highest, nobody builds on it, and its maker looks afterwards whether
there are higher ones, and takes it back. If it dies before it looks, the snapshot n may lack parts:
a restore prefers the later ones, would notice, and says so.

For this, the order counts: manifests are listed before parts, and deleted before parts.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from fabric.ids import CutSeq
from fabric.lsn import Lsn, Tli

from .cut import Cut
from .retention import DAY_S, Pins, RetentionSettings, Spacing, cuts_to_drop
from .snapshot_format import Layer, number_of_part

# Each costs a restore a window of its objects in memory, and a look-up for each run of pages.
LAYERS_GOAL: Final = 16
GARBAGE_FACTOR: Final = 2


class LayerKind(StrEnum):
    """What a snapshot adds."""

    NOTHING = "nothing"  # the newest cut has one already
    INCREMENT = "increment"
    MERGE = "merge"
    FULL = "full"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPlan:
    """What to make of the layers of the snapshot before."""

    kind: LayerKind
    kept: Sequence[Layer] = ()  # newest first, below the new one
    merged: Sequence[Layer] = ()  # into the new one


# All of a day, because a restore may take hours, and what it reads must not go meanwhile. The price
# is what was merged or written over in that day.
_SPACINGS: Final = (Spacing(DAY_S, 0), Spacing(float("inf"), DAY_S))


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotSettings:
    """How many layers a snapshot has, and which snapshots stay."""

    layers_goal: int = LAYERS_GOAL
    retention: RetentionSettings = field(
        default_factory=lambda: RetentionSettings(spacings=_SPACINGS)
    )

    def __post_init__(self) -> None:
        if not 2 <= self.layers_goal <= 128:  # noqa: PLR2004  # half of what a manifest may have
            raise ValueError("a snapshot has 2 to 128 layers")


def plan_layers(
    base: Sequence[Layer] | None, *, live_pages: int, settings: SnapshotSettings
) -> LayerPlan:
    """Decide what a new snapshot adds to the layers of its base; None: there is no base."""
    if base is None or sum(layer.pages for layer in base) > GARBAGE_FACTOR * live_pages:
        return LayerPlan(kind=LayerKind.FULL)
    if len(base) < settings.layers_goal:
        return LayerPlan(kind=LayerKind.INCREMENT, kept=base)
    ascending = sorted(range(len(base)), key=lambda index: base[index].pages)
    chosen = ascending[: len(base) - settings.layers_goal // 2]
    for index in ascending[len(chosen) :]:
        if base[index].pages > sum(base[one].pages for one in chosen):
            break
        chosen.append(index)
    return LayerPlan(
        kind=LayerKind.MERGE,
        kept=[layer for index, layer in enumerate(base) if index not in chosen],
        merged=[layer for index, layer in enumerate(base) if index in chosen],
    )


def manifests_to_delete(
    cuts: Mapping[int, Cut | None], *, now_s: float, settings: SnapshotSettings
) -> list[int]:
    """Return the numbers of the manifests that may go, ascending.

    `cuts`: of all manifests of a chain; None: it cannot be read. Such a one counts as old as the
    next one that can, so it goes by and by, and stays for long enough to be looked at.
    """
    ascending: list[Cut] = []
    time_s = now_s
    for number in sorted(cuts, reverse=True):
        cut = cuts[number]
        if cut is None:
            cut = Cut(seq=CutSeq(number), tli=Tli(1), lsn=Lsn(0), redo=Lsn(0), taken_at_s=time_s)
        time_s = cut.taken_at_s
        ascending.insert(0, replace(cut, seq=CutSeq(number)))
    dropped = cuts_to_drop(ascending, now_s=now_s, settings=settings.retention, pins=Pins())
    return sorted(int(seq) for seq in dropped)


def parts_to_delete(
    parts: Collection[str], *, named: Collection[str], highest: int | None
) -> list[str]:
    """Return the parts that may go: unnamed, and made for a number that is given.

    `named`: by the manifests that stay. `highest`: of all that were there before the parts were
    listed.
    """
    return sorted(
        part
        for part in parts
        if part not in named
        and highest is not None
        and (number := number_of_part(part)) is not None
        and number <= highest
    )
