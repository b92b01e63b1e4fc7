"""What the records of a store say: done, failed and left, for each scene, and every failed frame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from segengine.ahead import requested
from segengine.planning.outside import is_outside
from segengine.progress import Alert, FailedFrame
from segengine.reader import Store, open_store
from segengine.stages.tables import SceneFigures, failures_of
from segengine.store.columns import counted
from segengine.store.keys import LAYOUTS, layout_key, pack_key, table_key
from segengine.store.kinds import MaskRecord
from segengine.store.layouts import Unplaced, load_layout, load_layouts, load_unplaced
from segengine.store.parquet import read_parquet
from segengine.store.runs import History
from segengine.store.seals import SealedObjects, damage_notices


class FrameCounts(NamedTuple):
    """Frames by what became of them."""

    done: int
    failed: int
    """In quarantine."""
    left: int
    """Of which a shard has no record."""
    gone: int
    """Whose input has vanished; their masks stay."""


@dataclass(frozen=True, slots=True)
class SceneStatus:
    """A scene's shards by what became of them."""

    scene: str
    frames: int
    shards: int
    done: int
    failed: int
    of_frames: FrameCounts

    @property
    def gone(self) -> int:
        """Frames whose input has vanished."""
        return self.of_frames.gone

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
    alerts: tuple[Alert, ...] = ()
    """Those of the last run."""
    waiting: tuple[tuple[str, str], ...] = ()
    """Name and reason of each input that was still being written when the last run planned."""

    @property
    def exit_code(self) -> int:
        """0, or 3 while frames are quarantined."""
        return 3 if self.failed else 0

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints: frames by what became of them, for each scene, and the quarantine."""
        whole = _sum(scene.of_frames for scene in self.scenes)
        nowhere = sum(frame.scene is None for frame in self.failed)  # no scene counts them
        return {
            "store": self.store,
            "frames": whole._replace(failed=whole.failed + nowhere)._asdict(),
            "scenes": [
                {
                    "name": scene.scene,
                    "frames": scene.frames,
                    **scene.of_frames._asdict(),
                    "shards": {"done": scene.done, "failed": scene.failed, "left": scene.left},
                }
                for scene in self.scenes
            ],
            "quarantine": [
                {"name": f.name, "status": f.kind, "reason": f.reason, "scene": f.scene}
                for f in self.failed
            ],
            "waiting": [name for name, _ in self.waiting],
            "alerts": [alert._asdict() for alert in self.alerts],
            "notices": list(self.notices),
        }

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
                of_frames=_sum(s.of_frames for s in self.scenes),
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
        found += [f"{name} waits for the next run: {reason}" for name, reason in self.waiting]
        return (*found, *(alert.words for alert in self.alerts), *self.notices)


def _sum(counts: Iterable[FrameCounts]) -> FrameCounts:
    return FrameCounts(*map(sum, zip(*counts, (0, 0, 0, 0), strict=True)))


def status(path: str) -> StatusReport:
    """Read a store's records. Raises StoreError, JobError where there is no store."""
    store = open_store(path)
    objects = store.objects
    done = _all_done(store)
    scenes: list[SceneStatus] = []
    unplaced = load_unplaced(objects)
    failed = _failures(objects, [each for each in unplaced if not each.waits])
    named = {frame.name for frame in failed}
    waiting = tuple((u.name, u.reason) for u in unplaced if u.waits)
    _, names = objects.children(LAYOUTS)
    look = partial(_scene_status, store, done)
    for found in requested(names, look, objects.root):
        if found is not None:
            scenes.append(found[0])
            failed += [frame for frame in found[1] if frame.name not in named]
    notices = tuple(damage_notices(objects))
    alerts = History.read(objects).alerts
    return StatusReport(
        store=store.path,
        scenes=tuple(scenes),
        failed=tuple(failed),
        notices=notices,
        alerts=alerts,
        waiting=waiting,
    )


def _failures(objects: SealedObjects, unplaced: list[Unplaced]) -> list[FailedFrame]:
    """Inputs that could not be looked at, with the scene of those that keep a mask."""
    may_have = any(each.kind == "error" for each in unplaced)
    return failures_of(unplaced, load_layouts(objects) if may_have else {})


def _source(store: Store) -> dict[str, Any]:
    """The block of the store's job, with what the area's file said."""
    keys = store.attributes.get("fingerprints", {}).get("keys", {})
    return {**store.job.get("source", {}), "area_mark": keys.get("source.area", "")}


def _scene_status(
    store: Store, done: Mapping[str, SceneStatus], name: str
) -> tuple[SceneStatus, list[FailedFrame]] | None:
    """What a scene's records say; None where its layout is lost."""
    if name in done and all(_is_sealed(store.objects, key(name)) for key in (layout_key, pack_key)):
        return done[name], []
    layout = load_layout(store.objects, name)
    if layout is None:
        return None
    figures = SceneFigures(layout, len(store.classes), lambda: is_outside(_source(store), layout))
    statuses: list[str] = []
    for record in store.log.read(name, MaskRecord):
        if all(i < n for i, n in zip(record.shard, layout.grid, strict=True)):
            figures.add(record)
            statuses.append(record.status)
    frames = figures.counts()
    of_frames = FrameCounts(
        done=frames["done"],
        failed=sum(n for what, n in frames.items() if what not in ("done", "pending", "gone")),
        left=frames["pending"],
        gone=frames["gone"],
    )
    found = SceneStatus(
        scene=name,
        frames=layout.shape[0] - int(layout.pruned.sum()) * layout.stacked,
        shards=layout.shards,
        done=statuses.count("done"),
        failed=len(statuses) - statuses.count("done"),
        of_frames=of_frames,
    )
    return found, list(figures.failed())


def _all_done(store: Store) -> dict[str, SceneStatus]:
    """Scenes of which the published tables say that every frame is done.

    They say what the layouts and records said that were sealed when they were published: as long as
    those are there unchanged, nothing of them needs to be read.
    """
    objects = store.objects
    frames, shards = (
        objects.get(table_key(name)) if objects.published else None for name in ("frames", "shards")
    )
    if frames is None or shards is None:
        return {}
    with_singles, _ = store.log.scenes()
    count = dict(_counts(shards, "scene"))
    found: dict[str, SceneStatus] = {}
    undone = set(with_singles)
    for scene, status, n in _counts(frames, "scene", "status"):
        if status != "done" or scene not in count:
            undone.add(scene)
        else:
            found[scene] = SceneStatus(
                scene=scene,
                frames=n,
                shards=count[scene],
                done=count[scene],
                failed=0,
                of_frames=FrameCounts(done=n, failed=0, left=0, gone=0),
            )
    return {scene: one for scene, one in found.items() if scene not in undone}


def _counts(table: bytes, *columns: str) -> Iterator[tuple[Any, ...]]:
    """Each combination of values in columns of a stored table, and in how many rows it is."""
    for values, count in counted(read_parquet(table, columns), columns).items():
        yield (*values, count)


def _is_sealed(objects: SealedObjects, key: str) -> bool:
    """Whether an object is there as it was sealed."""
    return key in objects.book.seals and objects.get(key) is not None and key not in objects.damaged
