"""What the records say of a scene's shards: done, stale, drafted, or worth another try."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from segengine.store.kinds import LOST, DraftRecord, MaskRecord, VoidRecord
from segengine.store.layouts import Layout, Reads
from segengine.store.packs import SCHEMA
from segengine.store.records import RecordLog
from segengine.types import Place

NOWHERE, SINGLE, PACKED = 0, 1, 2


@dataclass(slots=True)
class SceneState:
    """What the records say of a scene's shards, each an array over the shard grid."""

    done: NDArray[np.bool_]
    """Committed with the fingerprints this run wants, and nothing in it worth another try."""
    had: NDArray[np.uint8]
    """Where a record lies: NOWHERE, SINGLE, PACKED."""
    drafted: NDArray[np.bool_]
    stale: int = 0
    """Shards whose record no longer holds."""
    causes: Counter[tuple[str, ...]] = field(default_factory=Counter)
    """What of theirs has changed, of shards that were done and are to be done again: `job`, `weights`,
    `inputs`, `fit`; `broken` and `linked` where that is what a repair is for."""
    retried: int = 0
    """Shards that failed last time."""
    singles: bool = False
    """The scene is not packed: it has single records."""
    held: NDArray[np.bool_] | None = None
    """Shards whose input cannot be looked at now: if they are not done, they are left; None: there are
    none."""
    records: dict[Place, MaskRecord] = field(default_factory=dict)
    """Mask records with failures, and all single ones."""

    @property
    def pending(self) -> int:
        """Shards left to do."""
        return int(np.count_nonzero(~self.done))

    @property
    def todo(self) -> NDArray[np.bool_]:
        """Those of them that this run can work on."""
        return ~self.done if self.held is None else ~(self.done | self.held)

    @classmethod
    def empty(cls, grid: tuple[int, int, int], *, done: bool = False) -> SceneState:
        """Of a scene without any record."""
        return cls(np.full(grid, done), np.zeros(grid, np.uint8), np.zeros(grid, np.bool_))


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the records of a scene's shards must say to count as done."""

    layout: Layout
    job: str
    """Fingerprint."""
    weights: str
    """Digest."""
    fits: bool
    """One fit labels all shards."""
    fit: str
    """Its digest. Without one nothing is done, but for shards that no fit could be made for."""
    drafts: bool
    """A frame's shards are drafted, and decided together."""
    broken: frozenset[Place]
    """To be done again, whatever their records say."""
    reads: Callable[[Place], Reads | None] | None = None
    """What of a map labels a shard; None: it is no map of many scenes."""

    def same_draft(self, record: DraftRecord) -> bool:
        """True where a draft need not be made again."""
        found = record.inputs, record.job, record.weights
        same = found == (self._inputs(record.shard), self.job, self.weights)
        return same and not any(f.kind != "corrupt" for f in record.failures)

    def same_mask(self, place: Place, inputs: str, job: str, weights: str, fit: str) -> bool:
        """True where a mask was made from what this run would make it from."""
        return not self.causes(place, inputs, job, weights, fit)

    def causes(
        self, place: Place, inputs: str, job: str, weights: str, fit: str
    ) -> tuple[str, ...]:
        """What makes a mask another: of `same_mask`, what does not hold."""
        differs = {
            "job": job != self.job,
            "weights": weights != self.weights,
            "inputs": not self._same_inputs(place, inputs),
        }
        found = tuple(name for name, changed in differs.items() if changed)
        return found or (("fit",) if self.fits and fit != self.fit else ())

    def all_gone(self, place: Place) -> bool:
        """True where all inputs of a shard have vanished."""
        if not self.layout.stacked:
            return bool(self.layout.gone[0])
        window = self.layout.window(place)
        return bool(self.layout.gone[window.start[0] : window.stop[0]].all())

    def worth_retry(self, failures: Iterable[tuple[int, str, str]]) -> bool:
        """True where another try may go better: a mask that was lost waits for its input."""
        return any(
            not self.layout.frame(frame).gone if kind == LOST else kind != "corrupt"
            for frame, kind, _ in failures
        )

    def _inputs(self, place: Place) -> str:
        window = self.layout.window(place)
        reads = None if self.reads is None else self.reads(place)
        return self.layout.inputs(window.start[0], window.stop[0], reads)

    def _same_inputs(self, place: Place, found: str) -> bool:
        wanted = self._inputs(place)
        if found == wanted:
            return True
        gone = self.layout.gone
        if not (self.layout.stacked and gone.any()):
            return False
        first = self.layout.window(place).start[0]
        old, new = found.split(" "), wanted.split(" ")
        return len(old) == len(new) and all(
            a == b or gone[first + i] for i, (a, b) in enumerate(zip(old, new, strict=True))
        )


_COLUMNS = ["kind", "f", "y", "x", "status", "inputs", "job", "weights", "fit", "failures"]


def read_state(wanted: Wanted, log: RecordLog, has_singles: bool, packed: bool) -> SceneState:
    """Judge a scene's records; `has_singles`, `packed`: where there are any."""
    scene = wanted.layout.scene
    reading = _Reading(wanted, has_singles)
    singles = log.singles(scene) if has_singles else {}
    table = log.table(scene, _COLUMNS) if packed else None
    if table is not None:
        columns = {n: table.column(n).to_pylist() for n in SCHEMA.names if n in _COLUMNS}
        for kind, f, y, x, status, inputs, job, weights, fit, failures in zip(
            *(columns[n] for n in _COLUMNS), strict=True
        ):
            place = (f, y, x)
            if kind == MaskRecord.KIND and (kind, place) not in singles and reading.has(place):
                retry = failures != "[]" and wanted.worth_retry(json.loads(failures))
                reading.mask(place, status, retry, (inputs, job, weights, fit), PACKED)
    had = PACKED if table is not None else SINGLE
    for (kind, place), record in singles.items():
        if not reading.has(place):  # of a larger grid, of a run that was killed
            continue
        if isinstance(record, MaskRecord):
            retry = wanted.worth_retry(record.failures)
            found = (record.inputs, record.job, record.weights, record.fit)
            reading.mask(place, record.status, retry, found, had)
            reading.state.records[place] = record
        elif isinstance(record, VoidRecord) and kind == MaskRecord.KIND:
            reading.state.had[place] = had
        elif isinstance(record, DraftRecord):
            reading.state.drafted[place] = wanted.same_draft(record)
    return reading.end()


class _Reading:
    """A scene's state while its records are read."""

    def __init__(self, wanted: Wanted, has_singles: bool) -> None:
        self.wanted = wanted
        self.state = SceneState.empty(wanted.layout.grid)
        self.state.singles = has_singles
        self.linked_again: set[int] = set()
        """Frames with a failed shard: what it holds may link pieces of all the others."""

    def has(self, place: Place) -> bool:
        """Whether there is such a shard: what was laid out otherwise has left records of others."""
        return all(i < n for i, n in zip(place, self.wanted.layout.grid, strict=True))

    def mask(
        self, place: Place, status: str, retry: bool, found: tuple[str, str, str, str], had: int
    ) -> None:
        """Note what a mask's record means for its shard; `found`: inputs, job, weights and fit."""
        wanted, state = self.wanted, self.state
        state.had[place] = had
        if wanted.all_gone(place):
            state.done[place] = True  # its inputs have vanished: the mask stays as it is
        elif status != "done" or retry:
            state.retried += 1
            if wanted.drafts:
                self.linked_again.add(place[0])
        else:
            causes = wanted.causes(place, *found)
            state.done[place] = not causes
            if causes:
                state.stale += 1
                state.causes[causes] += 1

    def end(self) -> SceneState:
        """The state, less what is broken and what must be linked again."""
        wanted, state = self.wanted, self.state
        done = state.done.copy()
        for place in wanted.broken:
            if not wanted.drafts or wanted.layout.frame(place[0]).gone:  # it cannot be linked again
                state.done[place] = False
            else:
                self.linked_again.add(place[0])
                state.drafted[place[0]] = False
        for frame in self.linked_again:
            state.done[frame] = False
        again = {tuple(map(int, place)) for place in np.argwhere(done & ~state.done)}
        broken = len(again & wanted.broken)
        state.causes += Counter({("broken",): broken, ("linked",): len(again) - broken})
        return state
