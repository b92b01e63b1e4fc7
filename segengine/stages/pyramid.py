"""Pyramids of masks, on the driver: level by level, each of the one below."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from segengine.dispatch.pool import Pool, Work
from segengine.fingerprint import digest
from segengine.job import FaultsSpec
from segengine.stages.blank import blank_checksum, blank_levels
from segengine.stages.outcomes import needed
from segengine.store.arrays import ArraySpec
from segengine.store.kinds import LevelRecord, MaskRecord
from segengine.store.records import SceneRecords
from segengine.store.seals import SealedObjects
from segengine.types import Place
from segengine.worker.pyramid import LevelTask, build_level_shard


class Pyramid:
    """A scene's, as far as it is built."""

    def __init__(
        self, scene: str, base: ArraySpec, levels: tuple[ArraySpec, ...], records: SceneRecords
    ) -> None:
        self.scene, self.levels = scene, levels
        self.had = "packed" if records.packed else "single"
        self.below = base
        self.checksums: dict[Place, str] = {}
        """By shard of the level that was built last."""
        self.stored: set[Place] = set()
        """Those of them that lie in the store."""
        self.blank: list[tuple[Place, str]] = []
        """Of the level that is being built, what lies above nothing but void, with its inputs."""
        self.old: dict[tuple[int, Place], LevelRecord] = {}
        for record in records.of(MaskRecord):
            self.checksums[record.shard] = record.checksum or record.status
            if record.objects:
                self.stored.add(record.shard)
        for level in records.of(LevelRecord):
            self.old[level.level, level.shard] = level

    def works(
        self, level: int, objects: SealedObjects, broken: frozenset[tuple[str, str, Place]]
    ) -> Iterator[Work]:
        """What there is to do of the next level."""
        spec, below, below_it = self.levels[level - 1], self.below, self.stored
        sources: dict[Place, list[tuple[Place, str]]] = defaultdict(list)
        for (f, y, x), checksum in self.checksums.items():
            sources[f, y // 2, x // 2].append(((f, y, x), checksum))
        self.below, self.checksums, self.stored, self.blank = spec, {}, set(), []
        void = blank_checksum(below)
        for place, parts in sorted(sources.items()):
            inputs = digest(sorted(parts))
            now = self.old.get((level, place))
            spoiled = (self.scene, spec.path, place) in broken
            if now is not None and now.below == inputs and not spoiled:
                self.add(now)
                continue
            if now is None and all(part in below_it and sum_ == void for part, sum_ in parts):
                self.blank.append((place, inputs))
                continue
            task = LevelTask(
                store=objects.root,
                scene=self.scene,
                level=level,
                place=place,
                spec=spec,
                below=below,
                inputs=inputs,
                stored=frozenset(part for part, _ in parts if part in below_it),
                had="" if now is None else self.had,
                writer=objects.writer,
            )
            yield Work(f"{self.scene}/{spec.path}/{place}", build_level_shard, task)

    def add_blank(self, level: int, objects: SealedObjects) -> list[LevelRecord]:
        """Store what is void of the level that has just been built, at once."""
        if not self.blank:
            return []
        made = blank_levels(objects, self.scene, level, self.below, self.blank)
        for record in made:
            self.add(record)
        return made

    def add(self, record: LevelRecord) -> None:
        """Note a shard of the level that is being built."""
        self.checksums[record.shard] = record.checksum
        self.stored.add(record.shard)


def build_pyramids(
    objects: SealedObjects,
    pyramids: Sequence[Pyramid],
    pool: Pool,
    faults: FaultsSpec,
    broken: frozenset[tuple[str, str, Place]] = frozenset(),
) -> Iterator[LevelRecord]:
    """Bring every level up to date with the one below; yields the records made.

    What lies above a damaged shard stays as it is, and is named in `objects.damaged`.
    """
    found = {pyramid.scene: pyramid for pyramid in pyramids}
    for level in range(1, 1 + max((len(pyramid.levels) for pyramid in pyramids), default=0)):
        works = _works([p for p in pyramids if level <= len(p.levels)], level, objects, broken)
        for _, made in needed(pool, works, faults, objects, lambda w: f"publish: {w.key}"):
            if isinstance(made, LevelRecord):
                found[made.scene].add(made)
                yield made
        for pyramid in pyramids:
            if level <= len(pyramid.levels):
                yield from pyramid.add_blank(level, objects)


def _works(
    pyramids: Iterable[Pyramid],
    level: int,
    objects: SealedObjects,
    broken: frozenset[tuple[str, str, Place]],
) -> Iterator[Work]:
    for pyramid in pyramids:
        yield from pyramid.works(level, objects, broken)
