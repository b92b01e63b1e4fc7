"""What may be written for a user: never an input, others' files only when asked, whole files only."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rasterio

from segengine import registry
from segengine.commands.show import show
from segengine.errors import JobError
from segengine.export import png
from segengine.outputs import LEDGER
from segengine.store.local import LocalObjects
from segengine.store.seals import SealedObjects

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
COMPONENTS = {"kind": "threshold", "method": "fixed", "levels": 128, "instances": "components"}
BUCKET = "256x256-uint8-3"
TARGETS = {
    "png": "a.png",
    "cog": "a.tif",
    "coco": "results.json",
    "panoptic": "panoptic/a.png",
    "geojson": f"{BUCKET}.geojson",
    "geoparquet": f"{BUCKET}.parquet",
    "flatgeobuf": f"{BUCKET}.fgb",
    "geopackage": f"{BUCKET}.gpkg",
    "stac": "catalog.json",
}
"""A file of each format."""


def export(kind: str, store: Any, to: Path, **options: Any) -> list[str]:
    found: list[str] = registry.load("exports", kind)(str(store), str(to), **options)
    return found


def picture(seed: int, side: int = 60) -> np.ndarray:
    image = np.zeros((side, side, 3), np.uint8)
    image[10 : 20 + seed, 10:40] = 250
    return image


@pytest.fixture(scope="module")
def photos(new_bench: Any) -> Any:
    bench = new_bench()
    for i, name in enumerate(("a.png", "b.png", "sub/c.png")):
        bench.put(name, picture(i))
    bench.run(COMPONENTS)
    return bench


def linked(path: Path, to: Path) -> None:
    path.symlink_to(to)


@pytest.mark.parametrize(
    "link", [linked, lambda path, to: path.hardlink_to(to)], ids=["sym", "hard"]
)
@pytest.mark.parametrize("kind", TARGETS)
def test_a_link_to_an_input_is_refused_and_nothing_is_written(
    kind: str, link: Callable[[Path, Path], None], photos: Any, tmp_path: Path, tree: Any
) -> None:
    target = tmp_path / "out" / TARGETS[kind]
    target.parent.mkdir(parents=True)
    link(target, photos.inputs / "b.png")
    before = tree(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(JobError, match="is an input of the store") as caught:
            export(kind, photos.store, tmp_path / "out", overwrite=overwrite)
        assert str(target) in str(caught.value)
    assert tree(tmp_path) == before
    assert (photos.inputs / "b.png").stat().st_size > 0


@pytest.mark.parametrize("kind", TARGETS)
def test_others_files_only_with_overwrite(
    kind: str, photos: Any, tmp_path: Path, tree: Any
) -> None:
    target = tmp_path / "out" / TARGETS[kind]
    target.parent.mkdir(parents=True)
    target.write_text("a user's own")
    before = tree(tmp_path)
    with pytest.raises(JobError, match="--overwrite") as caught:
        export(kind, photos.store, tmp_path / "out")
    assert str(target) in str(caught.value)
    assert tree(tmp_path) == before  # not the files that come before it either
    export(kind, photos.store, tmp_path / "out", overwrite=True)
    export(kind, photos.store, tmp_path / "fresh")
    assert tree(tmp_path / "out") == tree(tmp_path / "fresh")


@pytest.mark.parametrize("attributes", [True, False])
@pytest.mark.parametrize("kind", TARGETS)
def test_what_an_export_wrote_is_written_again_until_it_is_edited(
    kind: str, attributes: bool, photos: Any, tmp_path: Path, tree: Any, monkeypatch: Any
) -> None:
    if not attributes:  # as on a file system without them

        def refuse(*_: Any) -> None:
            raise OSError(errno.ENOTSUP, "Operation not supported")

        monkeypatch.setattr(os, "setxattr", refuse)
    export(kind, photos.store, tmp_path / "out")
    first = tree(tmp_path / "out")
    assert (LEDGER in first) is not attributes
    (tmp_path / "out").rename(tmp_path / "moved")
    export(kind, photos.store, tmp_path / "moved")
    assert tree(tmp_path / "moved") == first
    target = tmp_path / "moved" / TARGETS[kind]
    edited = target.read_bytes()[:-1] + b"!"
    target.write_bytes(edited)
    with pytest.raises(JobError, match="--overwrite"):
        export(kind, photos.store, tmp_path / "moved")
    assert target.read_bytes() == edited
    export(kind, photos.store, tmp_path / "moved", overwrite=True)
    assert tree(tmp_path / "moved") == first


def test_the_folder_of_the_inputs(photos: Any, tree: Any, tmp_path: Path) -> None:
    before = tree(photos.inputs)
    (tmp_path / "link").symlink_to(photos.inputs)
    for to in (photos.inputs, tmp_path / "link", photos.inputs / "sub" / ".."):
        with pytest.raises(JobError, match=r"a\.png: is an input"):
            export("png", photos.store, to, overwrite=True)
    assert tree(photos.inputs) == before
    written = export("cog", photos.store, photos.inputs)  # other names: a.tif
    assert {k: v for k, v in tree(photos.inputs).items() if k in before} == before
    for path in written:
        Path(path).unlink()


def test_the_place_of_an_input_that_has_vanished(bench: Any) -> None:
    (path, other) = (bench.put(name, picture(0)) for name in ("a.png", "b.png"))
    bench.run(COMPONENTS)
    path.unlink()
    with pytest.raises(JobError, match=r"a\.png: is an input"):
        export("png", bench.store, bench.inputs, overwrite=True)
    assert other.exists()
    assert not path.exists()


@pytest.mark.parametrize("to", ["", "tables", "new/folder"])
def test_the_store_itself(to: str, photos: Any, tmp_path: Path, tree: Any) -> None:
    before = tree(photos.store)
    (tmp_path / "link").symlink_to(photos.store)
    for folder in (photos.store, tmp_path / "link"):
        with pytest.raises(JobError, match="lies in the store itself"):
            export("png", photos.store, folder / to, overwrite=True)
    assert tree(photos.store) == before
    assert not (photos.store / "new").exists()


def test_truth_weights_and_what_a_vrt_is_made_of(bench: Any, tmp_path: Path) -> None:
    profile = {"driver": "GTiff", "height": 40, "width": 40, "count": 3, "dtype": "uint8"}
    parts = tmp_path / "parts"
    parts.mkdir()
    with rasterio.open(parts / "s.tif", "w", **profile) as data:
        data.write(np.moveaxis(picture(0, 40), -1, 0))
    bench.inputs.mkdir()
    (bench.inputs / "s.vrt").write_text(
        '<VRTDataset rasterXSize="40" rasterYSize="40">'
        + "".join(
            f'<VRTRasterBand dataType="Byte" band="{band}"><SimpleSource>'
            '<SourceFilename relativeToVRT="1">../parts/s.tif</SourceFilename>'
            f"<SourceBand>{band}</SourceBand></SimpleSource></VRTRasterBand>"
            for band in (1, 2, 3)
        )
        + "</VRTDataset>"
    )
    (tmp_path / "truth").mkdir()
    cv2.imwrite(str(tmp_path / "truth/s.png"), np.zeros((40, 40), np.uint8))
    truth = {"paths": [str(tmp_path / "truth/{stem}.png")], "classes": ["background", "object"]}
    bench.run({"kind": "threshold"}, truth=truth, trust=True)
    for kind, folder in (("cog", parts), ("png", tmp_path / "truth")):
        with pytest.raises(JobError, match=r"s\.\w+: is an input"):
            export(kind, bench.store, folder, overwrite=True)
    (tmp_path / "truth/s.png").unlink()  # for a while
    with pytest.raises(JobError, match=r"s\.png: is an input"):
        export("png", bench.store, tmp_path / "truth")
    assert export("png", bench.store, parts)  # s.png is nobody's there


def test_annotations_of_a_data_set(bench: Any, tree: Any) -> None:
    bench.put("val/a.png", picture(0))
    image = {"id": 1, "file_name": "a.png", "height": 60, "width": 60}
    about = {"images": [image], "annotations": [], "categories": [{"id": 1, "name": "x"}]}
    notes = bench.inputs / "annotations"
    (notes / "val").mkdir(parents=True)
    (notes / "instances_val.json").write_text(json.dumps(about))
    (notes / "results.json").write_text(json.dumps(about))
    (notes / "val/a.png").write_bytes(b"a trimap")
    bench.run(COMPONENTS, source={"kind": "coco", "paths": [str(bench.inputs)]})
    before = tree(bench.inputs)
    for kind in ("coco", "png"):
        with pytest.raises(JobError, match=r"(results\.json|a\.png): is an input"):
            export(kind, bench.store, notes, overwrite=True)
    for _ in range(2):  # what an export wrote there is no input
        assert len(export("coco", bench.store, bench.inputs / "out")) == 2
    assert before.items() <= tree(bench.inputs).items()
    source = {"kind": "coco", "paths": [str(bench.inputs / "val")]}
    bench.run(COMPONENTS, source={**source, "annotations": str(notes / "results.json")})
    with pytest.raises(JobError, match=r"results\.json: is an input"):
        export("coco", bench.store, notes, overwrite=True)


def test_files_that_the_segmenter_is_made_from(bench: Any, tmp_path: Path) -> None:
    bench.put("a.png", picture(0))
    bench.run(COMPONENTS)
    weights, network = tmp_path / "weights", tmp_path / "network"
    weights.mkdir()
    network.mkdir()
    (weights / "a.png").write_bytes(b"learned")
    root = json.loads((bench.store / "zarr.json").read_text())
    root["attributes"]["segengine"]["job"]["segmenter"] |= {
        "weights": str(weights / "a.png"),
        "members": [{"path": str(network)}],
    }
    objects = SealedObjects(LocalObjects(str(bench.store)))
    objects.put("zarr.json", json.dumps(root).encode())
    objects.commit("changed")
    for folder in (weights, network, network / "variables"):
        with pytest.raises(JobError, match=r"is an input"):
            export("png", bench.store, folder, overwrite=True)
    assert (weights / "a.png").read_bytes() == b"learned"
    assert not list(network.iterdir())


def test_a_killed_export_leaves_whole_files_and_goes_on(
    photos: Any, tmp_path: Path, tree: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    export("png", photos.store, tmp_path / "whole")
    whole, real = tree(tmp_path / "whole"), png._write

    def killed(file: Any, target: Any, *rest: Any) -> None:
        if target.path.name == "b.png":
            file.write(b"half")
            file.flush()
            raise KeyboardInterrupt
        real(file, target, *rest)

    for to in (tmp_path / "new", tmp_path / "whole"):
        monkeypatch.setattr(png, "_write", killed)
        with pytest.raises(KeyboardInterrupt):
            export("png", photos.store, to)
        found = tree(to)
        assert found.keys() <= whole.keys()
        assert found.items() <= whole.items()
        monkeypatch.setattr(png, "_write", real)
        export("png", photos.store, to)
        assert tree(to) == whole


def test_a_link_with_the_name_of_an_unfinished_file(photos: Any, tmp_path: Path) -> None:
    before = (photos.inputs / "a.png").read_bytes()
    for kind, name in (("png", ".a.png.partial"), ("cog", ".a.tif.draft")):
        (tmp_path / name).symlink_to(photos.inputs / "a.png")
        export(kind, photos.store, tmp_path)
    assert (photos.inputs / "a.png").read_bytes() == before


def test_a_picture_of_a_frame_never_replaces_an_input(photos: Any, tmp_path: Path) -> None:
    before = (photos.inputs / "a.png").read_bytes()
    (tmp_path / "link.png").symlink_to(photos.inputs / "a.png")
    for out in (photos.inputs / "a.png", tmp_path / "link.png"):
        with pytest.raises(JobError, match="is an input of the store"):
            show(str(photos.store), out=str(out))
    with pytest.raises(JobError, match="lies in the store"):
        show(str(photos.store), out=str(photos.store / "zarr.json"))
    assert (photos.inputs / "a.png").read_bytes() == before
    for _ in range(2):
        show(str(photos.store), out=str(tmp_path / "shown.png"))
    assert sorted(os.listdir(tmp_path)) == ["link.png", "shown.png"]
