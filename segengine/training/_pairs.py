"""Batches of patches: each object, and for each a patch of some frame without one.

What an epoch draws, where patches lie and how they are changed follows from (seed, epoch, place).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segengine.ahead import one_ahead
from segengine.errors import MissingTruthError
from segengine.models.deepmask import INPUT
from segengine.training import _centred
from segengine.training._centred import VOID, Spot, Things
from segengine.training._scaling import scaled
from segengine.training.augment import augment
from segengine.training.data import order
from segengine.training.job import AugmentSpec, ScaleSpec, TrainJob

_ORDER, _PLACE, _CHANGE, _BARE = range(4)  # streams of random numbers


class Batch(NamedTuple):
    """Patches, those with an object first."""

    pixels: Any
    """(n, 192, 192, band) float32, scaled"""
    masks: Any
    """(m, y, x) int32 of the first m; 255 where the truth is not known"""
    known: Any
    """(n,) float32, 0 for a patch that teaches nothing"""


@dataclass(frozen=True, slots=True)
class Patch:
    """One patch as read."""

    pixels: NDArray[np.float32]
    """(192, 192, band)"""
    mask: NDArray[np.int32]
    """(y, x)"""
    known: bool


def drawn(
    things: Things, count: int, balance: bool, window: int, rng: np.random.Generator
) -> list[int]:
    """Objects of an epoch, in order: each class equally often, or each object.

    Unless classes are balanced, none comes again before all have come.
    """
    learned = things.learned
    if balance:
        kinds = things.kinds[learned]
        share = 1.0 / np.bincount(kinds)[kinds]
        picked = np.sort(rng.choice(learned, count, p=share / share.sum()))
    else:
        whole, rest = divmod(count, len(learned))
        more = rng.choice(learned, rest, replace=False)
        picked = np.sort(np.concatenate([np.repeat(learned, whole), more]))
    return [int(picked[i]) for i in order(count, window, rng)]


@dataclass(frozen=True, slots=True)
class Pairs:
    """The patches of one part of the data."""

    job: TrainJob
    things: Things
    scales: tuple[float, float]
    """Of patches without an object: the least and the greatest."""
    side: int
    """Of a mask, in pixels."""
    share: int
    """2: each object and a patch without one; 1: objects only."""
    bands: int
    scale: ScaleSpec
    count: int | None
    """Objects an epoch; None: each, as it is, always the same."""
    lost: dict[str, str]
    """Frames that could not be read, and why, as they are met."""

    def chosen(self, epoch: int) -> list[int]:
        """Objects of an epoch, in order."""
        if self.count is None:
            return [int(thing) for thing in self.things.learned]
        rng = np.random.default_rng([self.job.seed, epoch, _ORDER])
        return drawn(self.things, self.count, self.job.input.balance, self.job.window, rng)

    def batches(self, epoch: int, every: int = 1) -> Iterator[Batch]:
        """An epoch's, or some of them; the next is made while one is used."""
        chosen, size = self.chosen(epoch), self.job.batch // self.share
        firsts = range(0, len(chosen), size * every)
        yield from one_ahead(self._batch(epoch, i, chosen[i : i + size]) for i in firsts)

    def _batch(self, epoch: int, first: int, chosen: Sequence[int]) -> Batch:
        patches = [self.thing(epoch, first + i, thing) for i, thing in enumerate(chosen)]
        masks = np.stack([p.mask for p in patches])
        if self.share == 2:
            patches += [self.bare(epoch, first + i) for i in range(len(chosen))]
        pixels = scaled(np.stack([p.pixels for p in patches]), self.scale)
        return Batch(pixels, masks, np.array([p.known for p in patches], np.float32))

    def _rng(self, epoch: int, place: int, stream: int) -> np.random.Generator:
        return np.random.default_rng([self.job.seed, epoch, place, stream])

    def thing(self, epoch: int, place: int, thing: int) -> Patch:
        """The patch of an object."""
        frame = self.things.frames[self.things.frame_of(thing)]
        moved = None if self.count is None else self._rng(epoch, place, _PLACE)
        at = _centred.centred(self.things.boxes[thing], moved)
        try:
            mask = _centred.mask_of(frame, int(self.things.rows[thing]), at)
            reason = ""
        except MissingTruthError as error:
            mask, reason = np.zeros((INPUT, INPUT), np.uint8), str(error)
        pixels, unread = _centred.pixels_of(frame, at, self.bands, self.scale)
        pixels, mask = self._changed(pixels, mask, self._rng(epoch, place, _CHANGE))
        true = _centred.target(mask, self.side)
        if reason or unread:
            self.lost[frame.ref.name] = reason or unread
            true[:] = VOID
        return Patch(pixels, true, not (reason or unread))

    def bare(self, epoch: int, place: int) -> Patch:
        """A patch of any frame whose truth is known, with no object in its middle."""
        rng = self._rng(epoch, place, _BARE)
        index = int(rng.choice(self.things.surveyed))
        frame = self.things.frames[index]
        at = _centred.nothing(self.things.around(index), frame.shape, self.scales, rng)
        where = at or Spot((0.0, 0.0), 1.0)
        pixels, unread = _centred.pixels_of(frame, where, self.bands, self.scale)
        if unread:
            self.lost[frame.ref.name] = unread
        mask = np.zeros((INPUT, INPUT), np.uint8)
        pixels, mask = self._changed(pixels, mask, rng)
        return Patch(pixels, mask.astype(np.int32), at is not None and not unread)

    def _changed(
        self, pixels: NDArray[np.float32], mask: NDArray[np.uint8], rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        spec = AugmentSpec() if self.count is None else self.job.augment
        return augment(pixels, mask, spec, rng, VOID)

    @property
    def names(self) -> set[str]:
        """Frames with an object to learn."""
        indexes = np.searchsorted(self.things.starts, self.things.learned, side="right") - 1
        return {self.things.frames[i].ref.name for i in np.unique(indexes)}
