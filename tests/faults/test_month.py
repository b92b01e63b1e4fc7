"""A month of nights: files come late, are replaced, break and vanish; a night is killed, one runs out of
hours, the disk fills, a better segmenter is promoted, and ten frames are deleted by law.

The store is then, byte for byte, that of the same month without the troubles, and, mask for mask, that
of one clean run over what there is at the end.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from harness import Job, differing, tree

import segengine
from segengine.commands.status import status
from segengine.commands.verify import verify
from segengine.errors import SegengineError
from segengine.progress import Summary
from segengine.store.blobs import open_objects
from segengine_flows.cli import main
from tests.searching import holding

pytestmark = [pytest.mark.system, pytest.mark.month, pytest.mark.usefixtures("plain_report")]
NIGHTS = 30
KILLED, SHORT, FULL, PROMOTED, DELETED = 7, 11, 15, 20, 25
SIZE = 48 << 20
"""Bytes of the disk."""
FIRST = {
    "kind": "threshold", "method": "fixed", "levels": 160,
    "instances": {"kind": "components", "min_area": 4},
}  # fmt: skip
BETTER = {**FIRST, "levels": 120}


def photo(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Bright blobs on dark ground, and which pixels are bright."""
    rng = np.random.default_rng(seed)
    height, width = (int(n) for n in rng.integers(60, 120, 2))
    blobs = cv2.GaussianBlur(rng.random((height, width)), (0, 0), 4)
    bright = (blobs > np.quantile(blobs, 0.6)).astype(np.uint8)
    pixels = np.where(bright == 1, 140, 80) + rng.integers(-25, 45, bright.shape)
    return pixels.clip(0, 255).astype(np.uint8), bright


@dataclass
class World:
    """A folder that a camera writes to, and the store of what it saw."""

    root: Path
    store: Path
    segmenter: dict[str, Any] = field(default_factory=lambda: dict(FIRST))
    codes: list[int] = field(default_factory=list)

    @property
    def inputs(self) -> Path:
        return self.root / "in"

    def put(self, name: str, seed: int, *, whole: bool = True) -> None:
        """A photo and its truth; its time is no part of what it is."""
        pixels, bright = photo(seed)
        for folder, image in ((self.inputs, pixels), (self.root / "truth", bright)):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(path), image)
        path = self.inputs / name
        if not whole:
            path.write_bytes(path.read_bytes()[:20])
        os.utime(path, (1_700_000_000 + seed, 1_700_000_000 + seed))

    def job(self, **blocks: Any) -> dict[str, Any]:
        truth = {
            "paths": [str(self.root / "truth/{path}.png")],
            "classes": ["background", "object"],
            "values": [0, 1],
        }
        return {
            "source": {"paths": [str(self.inputs)]},
            "segmenter": self.segmenter,
            "store": {"path": str(self.store), "chunk": 64, "shard": 512},
            "truth": truth,
            "cluster": {"kind": "local", "workers": 1},
            "faults": {"fsync": False, "max_quarantined": 0.5},
            **blocks,
        }

    def run(self, **blocks: Any) -> Summary:
        found = segengine.run(self.job(**blocks))
        self.codes.append(found.exit_code)
        return found

    def masks(self) -> dict[str, np.ndarray]:
        """By name, of what is there."""
        found = {}
        for scene in segengine.open_store(self.store).scenes.values():
            for ref in scene.frames:
                if not ref.gone:
                    found[ref.name] = scene.mask_of(ref.name)
        return found


def day(world: World, night: int) -> None:
    """What the day before a night brings: the same in every world."""
    dice = random.Random(night)
    for i in range(4):
        world.put(f"{night:02}/{i}.png", 1000 * night + i)
    there = sorted(p.relative_to(world.inputs).as_posix() for p in world.inputs.rglob("*.png"))
    world.put(dice.choice(there), 1000 * night + 100)  # replaced
    if night % 3 == 0:
        world.put(f"{max(1, night - 4):02}/late.png", 1000 * night + 200)
    if night % 4 == 0:
        world.put(f"{night:02}/broken.png", 1000 * night + 300, whole=False)
    if night % 4 == 2 and night > 4:  # and is uploaded once more
        world.put(f"{night - 2:02}/broken.png", 1000 * night + 301)
    if night % 5 == 0:
        (world.inputs / dice.choice([name for name in there if name not in deleted()])).unlink()


def promote(world: World) -> None:
    """A candidate labels the same inputs; `diff --promote-if` decides."""
    other = World(world.root, world.root / "candidate.zarr", dict(BETTER))
    other.run()
    condition = "mean_iou >= +0.005 and agreement >= 0.5"
    arguments = ["diff", str(world.store), str(other.store), "--promote-if"]
    assert main([*arguments, "mean_iou >= +0.9"]) == 4
    assert main([*arguments, condition]) == 0
    world.segmenter = other.segmenter
    shutil.rmtree(other.store)


def deleted() -> list[str]:
    """Ten frames: of one night, one each of others."""
    return [*(f"03/{i}.png" for i in range(4)), *(f"{n:02}/1.png" for n in range(14, 20))]


def delete(world: World) -> None:
    names = world.root / "names.txt"
    names.write_text("".join(f"{name}\n" for name in deleted()))
    assert main(["prune", str(world.store), "--frames", str(names), "--yes"]) == 0


def month(world: World, trouble: Callable[[World, int], bool]) -> None:
    """Night after night; `trouble` may take one over, and says whether it did."""
    for night in range(1, NIGHTS + 1):
        day(world, night)
        if night == PROMOTED:
            promote(world)
        if not trouble(world, night):
            world.run()
        if night == DELETED:
            delete(world)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own; needs root."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_month_of_nights_ends_as_if_there_had_been_no_trouble(
    disk: Path, tmp_path: Path, make_job: Callable[..., Job], capsys: Any
) -> None:
    def trouble(world: World, night: int) -> bool:
        if night == KILLED:  # with its work half done; the next night goes on
            run = make_job(world.job()).start("segment:progress:1:0", "--in-process")
            assert run.wait() == -9, run.stderr
            return True
        if night == SHORT:
            found = world.run(budget={"duration": "0.001s"})
            assert found.exit_code == 5
            assert found.left > 0
            return True
        if night == FULL:
            ballast = disk / "ballast"
            ballast.write_bytes(bytes(max(0, shutil.disk_usage(disk).free - 40_000)))
            with pytest.raises(SegengineError, match="No space left on device"):
                world.run()
            ballast.unlink()
        return False

    troubled = World(tmp_path / "a", disk / "masks.zarr")
    month(troubled, trouble)
    calm = World(tmp_path / "b", tmp_path / "calm.zarr")
    month(calm, lambda world, night: False)
    assert 5 in troubled.codes
    assert 5 not in calm.codes
    assert differing(tree(str(troubled.store)), tree(str(calm.store))) == []
    assert verify(str(troubled.store)).problems == ()
    assert status(str(troubled.store)).as_json()["frames"]["left"] == 0

    # What was deleted is still in the folder: it has not come back, and nothing tells of it.
    assert all((troubled.inputs / name).exists() for name in deleted())
    needles = tuple(name.encode() for name in deleted())
    assert holding(open_objects(str(troubled.store)), needles) == []

    once = World(tmp_path / "a", tmp_path / "once.zarr", troubled.segmenter)
    for name in deleted():
        (once.inputs / name).unlink()
    once.run()
    mine, theirs = troubled.masks(), once.masks()
    assert mine.keys() == theirs.keys()
    assert len(mine) > 100
    for name, mask in mine.items():
        np.testing.assert_array_equal(mask, theirs[name], name)
    assert once.segmenter == BETTER
