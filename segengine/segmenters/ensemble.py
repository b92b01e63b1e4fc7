"""Several networks as one: the mean of their probabilities, or a vote of their labels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import xxhash

from segengine import asked, registry
from segengine.errors import JobError
from segengine.segmenters import _part
from segengine.segmenters._files import check_choice
from segengine.segmenters._network import argmax
from segengine.segmenters._part import Mean
from segengine.segmenters._windows import InWindows
from segengine.types import Color, Linker, Pixels, Plugin, Prediction, Segmenter, Site

Combine = Literal["mean", "vote"]
MOST = 31
"""Members."""
HELD = 1 << 28
"""Bytes of a map of sums above which frames are worked on one by one."""


@dataclass(frozen=True, slots=True, eq=False)
class Ensemble(InWindows):
    """Members that label the same classes; each has its own windows, bands and engine."""

    members: tuple[Segmenter, ...]
    combine: Combine

    slow: ClassVar[bool] = True
    outputs: ClassVar[tuple[str, ...]] = ("labels", "probabilities")

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.members[0].classes)

    @property
    def colors(self) -> tuple[Color, ...]:
        return asked.colors(self.members[0])

    @property
    def halo(self) -> int | None:
        """The greatest of the members'."""
        halos = [member.halo for member in self.members]
        return None if None in halos else max(halo for halo in halos if halo is not None)

    @property
    def stride(self) -> int:
        """A grid that all members are on."""
        return math.lcm(*(member.stride for member in self.members))

    @property
    def version(self) -> int:
        """Of this and of all members."""
        return 1 + sum(asked.version(member) - 1 for member in self.members)

    @property
    def weights(self) -> str:
        """Digest of the members' weights."""
        return xxhash.xxh3_128_hexdigest(" ".join(map(asked.weights, self.members)).encode())

    @property
    def provenance(self) -> str:
        """Each engine once."""
        return ", ".join(dict.fromkeys(filter(None, map(asked.provenance, self.members))))

    def check_pixels(self, bands: int, dtype: str) -> None:
        """Raise ValueError, naming the member, where pixels of so many bands cannot be labelled."""
        for i, member in enumerate(self.members):
            try:
                asked.check_pixels(member, bands, dtype)
            except ValueError as error:
                raise ValueError(f"members[{i}].{error}") from error

    def remarks(self, sites: Iterable[Site]) -> Iterator[str]:
        """What the members say, each named."""
        here = tuple(sites)
        for i, member in enumerate(self.members):
            for line in asked.remarks(member, here):
                yield f"members[{i}].{line}"

    def describe(self) -> tuple[str, ...]:
        """What it is made of, a line a member."""
        own = (f"{len(self.members)} members, {self.combine} of their answers",)
        return own + tuple(
            f"members[{i}]: {line}"
            for i, member in enumerate(self.members)
            for line in asked.description(member) or (type(member).__name__,)
        )

    def segment(self, pixels: Pixels) -> Prediction:
        """Labels (n, y, x) of pixels (n, y, x, band), with mean probabilities or shares of the votes.

        Both are (n, y, x, class); where classes are equal, the lowest is the label.
        """
        classes = len(self.classes)
        found = np.empty((*pixels.shape[:3], classes), np.float32)
        step = max(1, HELD // max(1, 4 * classes * pixels[0, ..., 0].size))
        for start in range(0, len(pixels), step):
            found[start : start + step] = self._together(pixels[start : start + step])
        return Prediction(argmax(found), found)

    def _together(self, pixels: Pixels) -> Any:
        size = self.size or (pixels.shape[1], pixels.shape[2])
        inside = _part.within(pixels, self.corner, size)
        classes = len(self.classes)
        mean = Mean((*pixels.shape[:3], classes), len(self.members))
        total = mean.total[:, : inside.shape[1], : inside.shape[2]]
        for member in self.members:
            prediction, at = _part.predicted(member, inside, self.corner, size)
            if self.combine == "vote":
                prediction = Prediction(prediction.labels)
            mean.add(_part.shares(prediction, classes), total[:, *at])
        return mean.get()


def create(members: Sequence[Mapping[str, Any]], combine: Combine = "mean") -> Ensemble:
    """Several segmenters as one.

    members: a `segmenter` block each, of the same classes in the same order. combine: mean, of the
    members' probabilities (those that give labels alone count as sure), or vote, of their labels;
    ties go to the lowest label.
    """
    check_choice("combine", combine, Combine)
    given: object = members
    if not isinstance(given, list | tuple):
        raise ValueError(f"members: must be a list of segmenter blocks, not {members!r}")
    if not 2 <= len(members) <= MOST:
        raise ValueError(f"members: {len(members)} are named; give 2 to {MOST}")
    made = tuple(_member(i, block) for i, block in enumerate(members))
    classes = made[0].classes
    for i, member in enumerate(made):
        if tuple(member.classes) != tuple(classes):
            raise ValueError(
                f"members[{i}].classes: {_listed(member.classes)}, and those of members[0] are "
                f"{_listed(classes)}; let all name the same in the same order"
            )
    return Ensemble(made, combine)


def _member(i: int, block: Any) -> Segmenter:
    """A member by its block. Raises ValueError naming it."""
    where = f"members[{i}]"
    if not isinstance(block, Mapping) or not isinstance(block.get("kind"), str):
        raise ValueError(f"{where}.kind: this key is needed, one of `segengine segmenters`")
    options = {str(name): value for name, value in block.items() if name != "kind"}
    if "instances" in options:
        raise ValueError(f"{where}.instances: belongs to the whole, beside `members`")
    try:
        found: Plugin = registry.create("segmenters", block["kind"], options)
        asked.check(found, block["kind"])
    except JobError as error:
        raise type(error)(f"{where}.{error}") from error
    if asked.surveys(found):
        raise ValueError(
            f"{where}.kind: {block['kind']} must see frames before it can label them; "
            "take a network"
        )
    if asked.follows(found) is not None:
        raise ValueError(
            f"{where}.kind: {block['kind']} labels a frame by those before it; take what labels each "
            "by itself"
        )
    if isinstance(found, Linker) or "instances" in (asked.outputs(found) or ()):
        raise ValueError(
            f"{where}.kind: {block['kind']} finds objects or lines; take what labels pixels"
        )
    return found


def _listed(classes: Sequence[str]) -> str:
    return ", ".join(classes[:8]) + (" ..." if len(classes) > 8 else "")


_: type[Segmenter] = Ensemble
