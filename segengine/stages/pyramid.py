"""The pyramid of the mask, on the driver: level by level, each of the one below."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from segengine.dispatch.pool import Pool, Work
from segengine.fingerprint import digest
from segengine.job import FaultsSpec
from segengine.stages.outcomes import needed
from segengine.store.arrays import ArraySpec
from segengine.store.kinds import LevelRecord, MaskRecord
from segengine.store.layouts import Layout
from segengine.store.records import RecordLog
from segengine.store.seals import SealedObjects
from segengine.types import Place
from segengine.worker.pyramid import LevelTask, build_level_shard


def build_pyramid(
    objects: SealedObjects,
    layout: Layout,
    levels: tuple[ArraySpec, ...],
    base: ArraySpec,
    pool: Pool,
    faults: FaultsSpec,
    broken: frozenset[tuple[str, str, Place]] = frozenset(),
) -> Iterator[LevelRecord]:
    """Bring every level up to date with the one below; yields the records made.

    What lies above a damaged shard stays as it is, and is named in `objects.damaged`.
    """
    log = RecordLog(objects)
    checksums: dict[Place, str] = {}
    stored: set[Place] = set()
    old: dict[tuple[int, Place], LevelRecord] = {}
    for record in log.read(layout.scene):
        if isinstance(record, MaskRecord):
            checksums[record.shard] = record.checksum or record.status
            if record.objects:
                stored.add(record.shard)
        elif isinstance(record, LevelRecord):
            old[record.level, record.shard] = record
    had = "packed" if layout.scene in log.scenes()[1] else "single"
    below = base
    for level, spec in enumerate(levels, start=1):
        sources: dict[Place, list[tuple[Place, str]]] = defaultdict(list)
        for (f, y, x), checksum in checksums.items():
            sources[f, y // 2, x // 2].append(((f, y, x), checksum))
        works, checksums, below_it = [], {}, stored
        stored = set()
        for place, parts in sorted(sources.items()):
            inputs = digest(sorted(parts))
            record_now = old.get((level, place))
            spoiled = (layout.scene, spec.path, place) in broken
            if record_now is not None and record_now.below == inputs and not spoiled:
                checksums[place] = record_now.checksum
                stored.add(place)
                continue
            lies = had if record_now is not None else ""
            task = LevelTask(
                store=objects.root,
                scene=layout.scene,
                level=level,
                place=place,
                spec=spec,
                below=below,
                inputs=inputs,
                stored=frozenset(part for part, _ in parts if part in below_it),
                had=lies,
                writer=objects.writer,
            )
            works.append(Work(f"{layout.scene}/{spec.path}/{place}", build_level_shard, task))
        for _, made in needed(pool, works, faults, objects, lambda w: f"publish: {w.key}"):
            if isinstance(made, LevelRecord):
                checksums[made.shard] = made.checksum
                stored.add(made.shard)
                yield made
        below = spec
