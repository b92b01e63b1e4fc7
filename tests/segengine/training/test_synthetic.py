"""The scenes: the same for a seed, all classes in them, and not to be told by colour."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from segengine.training import synthetic
from segengine.training.synthetic import CLASSES, scene


def test_a_seed_is_a_scene() -> None:
    (a, x), (b, y), (c, _) = scene(3, 64), scene(3, 64), scene(4, 64)
    assert a.tobytes() == b.tobytes()
    assert x.tobytes() == y.tobytes()
    assert a.tobytes() != c.tobytes()
    assert (a.shape, a.dtype, x.dtype) == ((64, 64, 3), np.uint8, np.uint8)


def test_every_class_is_there_and_colours_do_not_tell_it() -> None:
    """A table of the most frequent class of each colour, on scenes that it was not made from."""
    made = [scene(seed, 128) for seed in range(24)]
    classes = np.bincount(np.concatenate([x.ravel() for _, x in made]), minlength=len(CLASSES))
    assert (classes / classes.sum() > 0.005).all()
    parts = [
        (
            np.concatenate([(p >> 4).reshape(-1, 3) @ (256, 16, 1) for p, _ in part]),
            np.concatenate([x.ravel() for _, x in part]),
        )
        for part in (made[:16], made[16:])
    ]
    table = np.zeros((4096, len(CLASSES)), int)
    np.add.at(table, parts[0], 1)
    colors, true = parts[1]
    found = table.argmax(axis=1)[colors]
    ious = [
        ((found == c) & (true == c)).sum() / ((found == c) | (true == c)).sum()
        for c in range(len(CLASSES))
    ]
    assert np.mean(ious) < 0.6


def test_vehicles_overlap_and_know_their_masks() -> None:
    overlapping = 0
    for seed in range(5):
        found = synthetic.vehicles(seed, 96)
        assert found.masks.shape == (len(found.classes), 96, 96)
        assert found.classes.max() < len(synthetic.VEHICLES)
        ids = found.visible
        for index, mask in enumerate(found.masks):
            assert mask[ids == index + 1].all()
        assert (ids[found.masks[-1]] == len(found.masks)).all()  # the last lies on top
        overlapping += int(found.masks.sum() > (ids > 0).sum())
    assert overlapping >= 3


def test_pets_lie_as_the_public_set_does(tmp_path: Path) -> None:
    synthetic.write_pets(tmp_path, 10)
    lists = {
        name: (tmp_path / f"annotations/{name}.txt").read_text().splitlines()
        for name in ("list", "trainval", "test")
    }
    entries = [line for line in lists["list"] if not line.startswith("#")]
    assert sorted(lists["trainval"] + lists["test"]) == sorted(entries)
    assert len(entries) == 10
    for line in entries:
        name, which, species, _ = line.split()
        assert (species == "1") == name[0].isupper()
        assert synthetic.BREEDS[int(which) - 1] == name.rpartition("_")[0]
        image = cv2.imread(str(tmp_path / f"images/{name}.jpg"))
        trimap = cv2.imread(str(tmp_path / f"annotations/trimaps/{name}.png"), cv2.IMREAD_UNCHANGED)
        assert image.shape[:2] == trimap.shape
        assert set(np.unique(trimap)) == {1, 2, 3}


def test_the_command_writes_scenes(tmp_path: Path) -> None:
    assert synthetic.main([str(tmp_path), "--scenes", "2", "--seed", "5", "--size", "32"]) == 0
    assert sorted(p.name for p in (tmp_path / "labels").iterdir()) == [
        "scene-00005.png",
        "scene-00006.png",
    ]
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "images/scene-00006.png")), scene(6, 32)[0]
    )
