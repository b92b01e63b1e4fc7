"""What the records of a store say: done, failed and left, for each scene, and every failed frame."""

from __future__ import annotations

from dataclasses import dataclass

from segengine.progress import FailedFrame
from segengine.reader import open_store
from segengine.stages.tables import SceneFigures
from segengine.store.kinds import MaskRecord
from segengine.store.layouts import load_layouts, load_unplaced
from segengine.store.seals import damage_notices


@dataclass(frozen=True, slots=True)
class SceneStatus:
    """A scene's shards by what became of them."""

    scene: str
    frames: int
    shards: int
    done: int
    failed: int
    gone: int
    """Frames whose input has vanished."""

    @property
    def left(self) -> int:
        """Shards without a record."""
        return self.shards - self.done - self.failed


@dataclass(frozen=True, slots=True)
class StatusReport:
    """The state of a store."""

    store: str
    scenes: tuple[SceneStatus, ...]
    failed: tuple[FailedFrame, ...]
    notices: tuple[str, ...] = ()
    """What of the store is damaged."""

    @property
    def exit_code(self) -> int:
        """0, or 3 while frames are quarantined."""
        return 3 if self.failed else 0

    def lines(self) -> tuple[str, ...]:
        """Text for a terminal."""
        width = max([len("scene"), *(len(s.scene) for s in self.scenes)])
        found = [self.store]
        found.append(
            f"{'scene':{width}}  {'frames':>7} {'shards':>7} {'done':>7} {'failed':>7} {'left':>7}"
        )
        rows = [
            *self.scenes,
            SceneStatus(
                scene="all",
                frames=sum(s.frames for s in self.scenes),
                shards=sum(s.shards for s in self.scenes),
                done=sum(s.done for s in self.scenes),
                failed=sum(s.failed for s in self.scenes),
                gone=sum(s.gone for s in self.scenes),
            ),
        ]
        for s in rows:
            note = f"  {s.gone} gone" if s.gone else ""
            found.append(
                f"{s.scene:{width}}  {s.frames:7} {s.shards:7} {s.done:7} {s.failed:7} {s.left:7}{note}"
            )
        if self.failed:
            frames = "1 frame is" if len(self.failed) == 1 else f"{len(self.failed)} frames are"
            found.append(f"{frames} quarantined:")
            found += [f"  {f.name}: {f.kind}: {f.reason}" for f in self.failed]
        return (*found, *self.notices)


def status(path: str) -> StatusReport:
    """Read a store's records. Raises StoreError, JobError where there is no store."""
    store = open_store(path)
    layouts = load_layouts(store.objects)
    scenes: list[SceneStatus] = []
    failed: list[FailedFrame] = []
    unplaced = load_unplaced(store.objects)
    failed += [FailedFrame(u.name, None, None, u.kind, u.reason) for u in unplaced]
    for name, layout in layouts.items():
        figures = SceneFigures(layout, len(store.classes))
        done = bad = 0
        for record in store.log.read(name, MaskRecord):
            if any(i >= n for i, n in zip(record.shard, layout.grid, strict=True)):
                continue
            figures.add(record)
            done += record.status == "done"
            bad += record.status != "done"
        gone = int(layout.gone.sum())
        scenes.append(
            SceneStatus(
                scene=name,
                frames=layout.shape[0],
                shards=layout.shards,
                done=done,
                failed=bad,
                gone=gone,
            )
        )
        failed += list(figures.failed())
    notices = tuple(damage_notices(store.objects))
    return StatusReport(store.path, tuple(scenes), tuple(failed), notices)
