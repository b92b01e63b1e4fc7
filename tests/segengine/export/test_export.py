import io
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import segengine
from segengine import registry
from segengine.errors import JobError, StoreError
from segengine.export._targets import _Taken
from segengine.export.cog import export as export_cog
from segengine.export.png import PngWriter
from segengine.export.png import export as export_png
from segengine.reader import open_store
from segengine.store.arrays import scene_arrays
from segengine.store.blobs import open_objects
from segengine.store.layouts import Layout, commit_layout
from segengine.store.root import write_root, write_scene
from segengine.store.shards import write_block

RNG = np.random.default_rng(7)
UTM = "EPSG:32613"


def make_store(
    path: Path, layouts: list[Layout], masks: dict[str, np.ndarray], classes: int
) -> str:
    """A store written shard by shard, as workers do, without a run."""
    objects = open_objects(str(path))
    colors = RNG.integers(0, 256, (classes, 3)).tolist()
    names = [f"class {i}" for i in range(classes)]
    job = {"name": "made", "source": {"paths": []}}
    write_root(objects, {"version": 1, "job": job, "classes": names, "colors": colors})
    for layout in layouts:
        commit_layout(objects, layout)
        arrays = scene_arrays(layout, classes, ("labels",), None)
        write_scene(objects, layout, arrays)
        for f, y, x in np.ndindex(*layout.grid):
            box = layout.window((f, y, x)).slices
            write_block(
                objects, arrays["mask/0"], layout.scene, (f, y, x), masks[layout.scene][box]
            )
    return str(path)


def layout(
    scene, shape, names, *, kind="images", sizes=None, stacked=True, positions=None, **extra
):
    sizes = sizes or [shape[1:]] * len(names)
    return Layout(
        scene,
        kind,
        shape,
        3,
        "uint8",
        (2, 64, 64),
        (1, 32, 32),
        tuple(names),
        tuple(f"/in/{n}" for n in names),
        tuple("0" for _ in names),
        np.array([s[0] for s in sizes], np.int32),
        np.array([s[1] for s in sizes], np.int32),
        np.array(extra.pop("gone", [False] * len(names))),
        stacked=stacked,
        windowed=not stacked,
        positions=positions,
        **extra,
    )


def random_labels(shape, classes, void):
    """Labels in patches, a tenth void."""
    small = tuple(-(-n // 7) for n in shape[1:])
    patches = RNG.integers(0, classes, (shape[0], *small))
    labels = patches.repeat(7, 1).repeat(7, 2)[:, : shape[1], : shape[2]]
    labels[RNG.random(shape) < 0.1] = void
    return labels.astype(np.uint8 if void == 255 else np.uint16)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A bucket of photos of several sizes, a video, a raster of many shards; masks by frame."""
    path = tmp_path_factory.mktemp("store") / "masks.zarr"
    names = ["a.jpg", "a.png", "sub/ü b.jpg", "../up.tif"]
    sizes = [(100, 90), (128, 128), (1, 70), (77, 128)]
    masks = {
        "bucket": random_labels((4, 128, 128), 5, 255),
        "clip": random_labels((5, 48, 40), 5, 255),
        "field": random_labels((1, 150, 201), 5, 255),
    }
    from rasterio.crs import CRS

    georeference = {
        "crs_wkt": CRS.from_string(UTM).to_wkt(),
        "transform": [2.0, 0.0, 487548.0, 0.0, -2.0, 4443554.0],
    }
    layouts = [
        layout("bucket", (4, 128, 128), names, sizes=sizes),
        layout("clip", (5, 48, 40), ["clip.avi"], kind="video", stacked=False,
               positions=np.array([0, 3, 6, 9, 12])),
        layout("field", (1, 150, 201), ["north/field.tif"], kind="raster", stacked=False,
               attributes=georeference),
    ]  # fmt: skip
    store = make_store(path, layouts, masks, 5)
    expected = {
        "a": masks["bucket"][0, :100, :90],
        "a.png": masks["bucket"][1],
        "sub/ü b": masks["bucket"][2, :1, :70],
        "north/field": masks["field"][0],
        **{f"clip/{3 * i:06d}": masks["clip"][i] for i in range(5)},
    }
    return store, expected, masks["bucket"][3, :77]


def files_below(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_png_of_every_frame_in_its_folder(photos, tmp_path):
    store, expected, escaped = photos
    written = export_png(store, str(tmp_path / "out"))
    found = files_below(tmp_path / "out")
    assert {str(tmp_path / "out" / f) for f in found} == set(written)
    for name, labels in expected.items():
        with Image.open(tmp_path / "out" / f"{name}.png") as image:
            assert image.mode == "P"
            assert np.array_equal(np.asarray(image), labels), name
    (other,) = found - {f"{name}.png" for name in expected}
    assert ".." not in Path(other).parts
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / other)), escaped)


def test_png_has_the_stores_colours_void_transparent_and_class_names(photos, tmp_path):
    store, expected, _ = photos
    export_png(store, str(tmp_path))
    with Image.open(tmp_path / "a.png") as image:
        image.load()
        about = json.loads(image.text["segengine"])
        rgba = np.asarray(image.convert("RGBA"))
    assert about == {
        "classes": [f"class {i}" for i in range(5)],
        "void": 255,
        "scene": "bucket",
        "frame": "a.jpg",
    }
    labels, colors = expected["a"], open_store(store)["bucket"].colors()
    assert np.array_equal(rgba[..., 3] == 0, labels == 255)
    assert np.array_equal(rgba[labels != 255][:, :3], colors[labels[labels != 255]])


@given(st.integers(1, 40), st.integers(1, 40), st.booleans(), st.data())
@settings(max_examples=30, deadline=None)
def test_a_png_written_in_bands_is_read_back_by_pillow(height, width, wide, data):
    top = 65535 if wide else 255
    labels = RNG.integers(0, top + 1, (height, width)).astype(np.uint16 if wide else np.uint8)
    palette = None if wide else RNG.integers(0, 256, (256, 3)).astype(np.uint8)
    cuts = sorted(data.draw(st.sets(st.integers(1, height), max_size=4)) | {height})
    file = io.BytesIO()
    with PngWriter(file, height, width, palette, text={"key": "wért"}, level=1) as writer:
        for a, b in zip([0, *cuts], cuts, strict=False):
            writer.write(labels[a:b])
    with Image.open(io.BytesIO(file.getvalue())) as image:
        image.verify()  # every chunk's checksum
    with Image.open(io.BytesIO(file.getvalue())) as image:
        image.load()
        assert image.text["key"] == "wért"
        assert np.array_equal(np.asarray(image), labels)


def test_a_png_with_rows_missing_or_too_many_is_refused():
    with pytest.raises(ValueError, match="3 are missing"):
        PngWriter(io.BytesIO(), 3, 4, None, text={}, level=1).close()
    writer = PngWriter(io.BytesIO(), 3, 4, None, text={}, level=1)
    with pytest.raises(ValueError, match=r"\(4, 4\) do not fit"):
        writer.write(np.zeros((4, 4), np.uint16))


def test_cog_passes_the_validator_and_holds_the_labels(photos, tmp_path):
    import rasterio
    from rio_cogeo.cogeo import cog_validate

    store, expected, _ = photos
    written = [path for path in export_cog(store, str(tmp_path)) if path.endswith(".tif")]
    assert len(written) == len(expected) + 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        for path in written:
            assert cog_validate(path, strict=True) == (True, [], [])
        for name, labels in expected.items():
            with rasterio.open(tmp_path / f"{name}.tif") as dataset:
                assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
                assert dataset.nodata == 255
                assert np.array_equal(dataset.read(1), labels), name
                assert json.loads(dataset.tags()["classes"])[4] == "class 4"
    assert not [
        f for f in files_below(tmp_path) if not f.endswith((".tif", ".aux.xml"))
    ]  # no drafts


def test_cog_keeps_crs_transform_and_colours(photos, tmp_path):
    import rasterio

    store, _, _ = photos
    export_cog(store, str(tmp_path))
    with rasterio.open(tmp_path / "north" / "field.tif") as dataset:
        assert dataset.crs.to_epsg() == 32613
        assert dataset.transform[:6] == (2.0, 0.0, 487548.0, 0.0, -2.0, 4443554.0)
        table = dataset.colormap(1)
    colors = open_store(store)["field"].colors().tolist()
    assert [list(table[i]) for i in range(5)] == [[*c, 255] for c in colors]
    assert table[255] == (0, 0, 0, 0)


def gdal_category_names(path: Path) -> list[str]:
    """As GDAL itself reads them, by the library that rasterio brings; rasterio has no word for them."""
    import ctypes
    import os

    import rasterio

    where = Path(rasterio.__file__).parents[1] / "rasterio.libs"
    (library,) = where.glob("libgdal-*")
    gdal = ctypes.CDLL(os.fspath(library))
    for name in ("GDALOpen", "GDALGetRasterBand"):
        getattr(gdal, name).restype = ctypes.c_void_p
    gdal.GDALGetRasterCategoryNames.restype = ctypes.POINTER(ctypes.c_char_p)
    dataset = ctypes.c_void_p(gdal.GDALOpen(os.fsencode(path), 0))
    gdal.GDALGetMetadata(dataset, None)  # what lies beside a TIFF is only then looked for
    names = gdal.GDALGetRasterCategoryNames(ctypes.c_void_p(gdal.GDALGetRasterBand(dataset, 1)))
    found = []
    while names and (name := names[len(found)]) is not None:
        found.append(name.decode())
    gdal.GDALClose(dataset)
    return found


def test_cog_has_class_names_as_gdals_categories(tmp_path):
    import rasterio

    labels = random_labels((1, 70, 90), 3, 255)
    store = make_store(
        tmp_path / "s.zarr", [layout("s", labels.shape, ["s.tif"])], {"s": labels}, 3
    )
    names = ["water & <ice>", "café", "a\x07b"]
    root = tmp_path / "s.zarr/zarr.json"
    document = json.loads(root.read_text())
    document["attributes"]["segengine"]["classes"] = names
    root.write_text(json.dumps(document))
    path, beside = export_cog(store, str(tmp_path / "out"))
    with rasterio.Env():  # GDAL's drivers are there
        assert gdal_category_names(Path(path)) == ["water & <ice>", "café", "ab"]
        Path(beside).unlink()
        assert gdal_category_names(Path(path)) == []


def test_a_scene_of_many_blocks_becomes_a_cog_with_overviews_by_mode(tmp_path):
    import rasterio
    from rio_cogeo.cogeo import cog_validate

    labels = np.zeros((1, 1100, 2600), np.uint8)
    labels[0, ::2, ::2] = 1  # one in four: no overview by mode shows it
    labels[0, 300:700, 500:2300] = 2
    big = layout("big", labels.shape, ["big.tif"], kind="raster", stacked=False,
                 attributes={"transform": [1, 0, 5, 0, -1, 7]})  # fmt: skip
    store = make_store(tmp_path / "s.zarr", [big], {"big": labels}, 3)
    path, _ = export_cog(store, str(tmp_path / "out"), compress="zstd")
    assert cog_validate(path, strict=True) == (True, [], [])
    with rasterio.open(path) as dataset:
        assert dataset.overviews(1) == [2, 4, 8]
        assert dataset.block_shapes == [(512, 512)]
        assert np.array_equal(dataset.read(1), labels[0])
    with rasterio.open(path, overview_level=0) as dataset:
        assert set(np.unique(dataset.read(1))) == {0, 2}
    (png,) = export_png(store, str(tmp_path / "png"))
    assert np.array_equal(np.asarray(Image.open(png)), labels[0])


def test_more_than_255_classes_are_16_bit_without_colours(tmp_path):
    import rasterio
    from rio_cogeo.cogeo import cog_validate

    labels = random_labels((1, 70, 90), 300, 65535)
    store = make_store(
        tmp_path / "s.zarr", [layout("s", labels.shape, ["s.tif"])], {"s": labels}, 300
    )
    (png,) = export_png(store, str(tmp_path / "png"))
    with Image.open(png) as image:
        assert image.mode == "I;16"
        assert np.array_equal(np.asarray(image), labels[0])
    cog, _ = export_cog(store, str(tmp_path / "cog"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        assert cog_validate(cog, strict=True)[0]
        with rasterio.open(cog) as dataset:
            assert dataset.nodata == 65535
            assert np.array_equal(dataset.read(1), labels[0])
            with pytest.raises(ValueError, match="NULL color table"):
                dataset.colormap(1)


def test_a_vanished_frame_is_exported_unless_another_took_its_name(tmp_path):
    old = layout("old", (2, 64, 64), ["a.jpg", "b.jpg"], gone=[True, True])
    new = layout("old.2", (1, 64, 64), ["a.jpg"])
    masks = {"old": random_labels((2, 64, 64), 3, 255), "old.2": random_labels((1, 64, 64), 3, 255)}
    store = make_store(tmp_path / "s.zarr", [old, new], masks, 3)
    export_png(store, str(tmp_path / "out"))
    assert files_below(tmp_path / "out") == {"a.png", "b.png"}
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "a.png")), masks["old.2"][0])
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "b.png")), masks["old"][1])


PARTS = st.sampled_from(
    [
        "a",
        "A",
        "a.png",
        "a.PNG",
        "..",
        ".",
        "c:d",
        'q"',
        "x" * 300,
        "\udcff.jpg",
        "ü.tif",
        "a .jpg",
        "n\n",
    ]
)


@given(st.lists(st.lists(PARTS, min_size=1, max_size=3).map("/".join), unique=True, max_size=12))
@settings(max_examples=150, deadline=None)
def test_names_never_meet_never_leave_the_folder_and_suit_any_file_system(names):
    taken = _Taken()
    paths = [taken.take(name, ".png") for name in names]
    folded = [p.casefold() for p in paths]
    assert len(set(folded)) == len(names)
    for path in folded:
        parts = path.split("/")
        assert all(part not in ("", ".", "..") and len(part.encode()) < 256 for part in parts)
        assert not set(path) & set('\\:*?"<>|\n')
        assert not any(f"/{other}".startswith(f"/{path}/") for other in folded)  # file and folder


def test_a_run_is_exported_through_the_registry(tmp_path):
    image = RNG.integers(0, 256, (40, 50, 3)).astype(np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(image).save(tmp_path / "in" / "x.png")
    (tmp_path / "in" / "bad.png").write_bytes(b"no")
    store = str(tmp_path / "masks.zarr")
    segengine.run(
        {
            "source": {"paths": [str(tmp_path / "in")]},
            "segmenter": {"kind": "kmeans", "clusters": 3, "scope": "frame"},
            "store": {"path": store},
        }
    )
    expected = segengine.segment(
        image, segengine.create_segmenter({"kind": "kmeans", "clusters": 3, "scope": "frame"})
    )
    for kind in ("png", "cog"):
        assert kind in registry.names("exports")
        path, *_ = registry.load("exports", kind)(store, str(tmp_path / kind))
        with Image.open(path) as exported:
            assert np.array_equal(np.asarray(exported), expected)


def test_folders_and_options_that_cannot_be(photos, tmp_path):
    store, _, _ = photos
    (tmp_path / "file").write_text("")
    with pytest.raises(JobError, match="cannot be made a folder"):
        export_png(store, str(tmp_path / "file"))
    with pytest.raises(JobError, match="s3://bucket/x: exports go to a local folder"):
        export_cog(store, "s3://bucket/x")
    with pytest.raises(JobError, match="no segengine store"):
        export_png(str(tmp_path / "nothing"), str(tmp_path / "out"))
    with pytest.raises(ValueError, match="compress: 'jpeg'"):
        export_cog(store, str(tmp_path), compress="jpeg")
    with pytest.raises(ValueError, match="level: 11"):
        export_png(store, str(tmp_path), level=11)


def test_a_file_that_cannot_be_written_leaves_no_partial_one(photos, tmp_path):
    store, _, _ = photos
    (tmp_path / "a.png").mkdir()
    with pytest.raises(StoreError, match=r"a\.png: cannot be written"):
        export_png(store, str(tmp_path))
    assert not [f for f in files_below(tmp_path) if "partial" in f]
