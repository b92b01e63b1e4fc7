import numpy as np
import pytest
from PIL import Image

import segengine
from segengine.commands.show import show
from segengine.errors import JobError, StoreError
from segengine.pictures import draw
from segengine.pictures.view import look, matching
from segengine.reader import open_store

KMEANS = {"kind": "kmeans", "clusters": 3, "scope": "frame"}


def run(folder, segmenter, **job):
    path = str(folder / "masks.zarr")
    source = {"paths": [str(folder / "in")]}
    segengine.run({"source": source, "segmenter": segmenter, "store": {"path": path}, **job})
    return path


def holds(sheet, panel) -> bool:
    """Whether a picture lies somewhere in another, pixel by pixel."""
    height, width = panel.shape[:2]
    rows, columns = (s - p + 1 for s, p in zip(sheet.shape[:2], (height, width), strict=True))
    corner = (sheet[:rows, :columns] == panel[0, 0]).all(-1)
    places = np.argwhere(corner)
    return any(np.array_equal(sheet[y : y + height, x : x + width], panel) for y, x in places)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two photos and the truth of one."""
    from skimage import data

    folder = tmp_path_factory.mktemp("photos")
    (folder / "in").mkdir()
    (folder / "truth").mkdir()
    cat = data.chelsea()[:280, 60:340]
    Image.fromarray(cat).save(folder / "in" / "cat.png")
    coins = data.coins()[:270, :300]
    Image.fromarray(coins).save(folder / "in" / "coins.png")
    truth = (cat.mean(-1) > 120).astype(np.uint8)
    truth[:40] = 255
    Image.fromarray(truth).save(folder / "truth" / "cat.png")
    return folder, cat, truth


@pytest.fixture(scope="module")
def clusters(photos):
    folder, _, _ = photos
    truth = {"paths": [str(folder / "truth" / "{stem}.png")], "classes": ["dark", "light"]}
    return run(folder, KMEANS, truth=truth)


def test_clusters_are_shown_beside_the_image_and_in_their_own_colours(clusters, photos, tmp_path):
    _, cat, _ = photos
    out = show(clusters, "cat.png", out=str(tmp_path / "new" / "cat.png"))
    sheet = np.asarray(Image.open(out))
    assert holds(sheet, cat)
    segmenter = segengine.create_segmenter(KMEANS)
    labels = segengine.segment(cat, segmenter)
    fitted = segmenter.fit(segmenter.survey(cat[None], np.ones((1, *cat.shape[:2]), np.bool_)))
    assert holds(sheet, np.uint8(fitted.colors)[labels])  # the tutorial's clustered picture
    palette = open_store(clusters).attributes["colors"]
    assert holds(sheet, draw.overlay(cat, labels, palette))


def test_the_default_is_the_first_scene_in_the_working_directory(clusters, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = next(iter(open_store(clusters).scenes))
    assert show(clusters) == f"{first}-0.png"
    assert (tmp_path / f"{first}-0.png").stat().st_size > 1000


def test_errors_are_shown_against_the_truth(clusters, photos, tmp_path):
    _, cat, truth = photos
    sheet = np.asarray(
        Image.open(show(clusters, "cat.png", out=str(tmp_path / "e.png"), what="errors"))
    )
    labels = segengine.segment(cat, segengine.create_segmenter(KMEANS))
    named = open_store(clusters).metrics["matching"]
    pairs = matching(("cluster 0", "cluster 1", "cluster 2"), ("dark", "light"), named)
    assert sorted(pairs.values(), key=str) == [0, 1, None]
    assert holds(sheet, draw.error_map(cat, labels, truth, pairs, 2))
    with pytest.raises(JobError, match="has no truth that fits it"):
        show(clusters, "coins.png", out=str(tmp_path / "f.png"), what="errors")


def test_both_signed_responses_of_an_edge_operator(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("edges")
    (folder / "in").symlink_to(photos[0] / "in")
    job = {"kind": "edges", "operator": "prewitt"}
    store = run(folder, job)
    out = show(store, "coins.png", out=str(folder / "r.png"), what="responses")
    sheet = np.asarray(Image.open(out))
    import cv2

    gray = np.asarray(Image.open(folder / "in" / "coins.png")).astype(np.float64)
    kernel = np.outer([1.0, 0, -1], [1, 1, 1])
    for k in (kernel, kernel.T):
        response = cv2.filter2D(gray, cv2.CV_64F, k, borderType=cv2.BORDER_REFLECT)
        signed = (draw.signed(response), draw.signed(-response))
        assert any(holds(sheet, s) for s in signed)
    with pytest.raises(JobError, match="not measured against truth"):
        show(store, out=str(folder / "x.png"), what="errors")


def test_what_the_store_does_not_have_is_named(clusters, tmp_path):
    first = next(iter(open_store(clusters).scenes))
    with pytest.raises(JobError, match=f"scene '{first}x' is not in .*{first}"):
        show(clusters, f"{first}x")
    with pytest.raises(JobError, match=r"frame 7 is not in scene .* it has 1, the first is 0"):
        show(clusters, first, 7)
    with pytest.raises(JobError, match="kmeans has none; edges has"):
        show(clusters, what="responses")
    with pytest.raises(ValueError, match="what: 'mask' is not one of overlay, errors, responses"):
        show(clusters, what="mask")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        show(clusters, out=str(tmp_path / "file" / "x.png"))
    with pytest.raises(JobError, match="no segengine store"):
        show(str(tmp_path / "nothing"))


def test_an_image_that_is_gone_leaves_its_mask(tmp_path):
    (tmp_path / "in").mkdir()
    Image.effect_noise((300, 260), 90).save(tmp_path / "in" / "a.png")
    store = run(tmp_path, {"kind": "threshold"})
    (tmp_path / "in" / "a.png").unlink()
    sheet = np.asarray(Image.open(show(store, out=str(tmp_path / "o.png"))))
    scene = next(iter(open_store(store).scenes.values()))
    assert holds(sheet, draw.colorize(scene.mask[0, :260, :300], scene.colors()))


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A raster with a pyramid: 700 x 1100 pixels in shards of 256."""
    import rasterio

    folder = tmp_path_factory.mktemp("large")
    (folder / "in").mkdir()
    y, x = np.mgrid[:700, :1100]
    pixels = ((y // 50 + x // 50) % 2 * 150 + x // 20).astype(np.uint16)
    pixels[:40, :90] = 9
    profile = {"driver": "GTiff", "height": 700, "width": 1100, "count": 1, "dtype": "uint16"}
    transform = rasterio.Affine(2, 0, 5, 0, -2, 5)
    with rasterio.open(
        folder / "in" / "a.tif", "w", nodata=9, transform=transform, **profile
    ) as file:
        file.write(pixels, 1)
    path = str(folder / "masks.zarr")
    segengine.run(
        {
            "source": {"kind": "raster", "paths": [str(folder / "in" / "a.tif")]},
            "segmenter": {"kind": "threshold", "scope": "scene"},
            "store": {"path": path, "chunk": 128, "shard": 256},
        }
    )
    return open_store(path)["a"], pixels


@pytest.mark.parametrize(("size", "step"), [(2000, 1), (1000, 2), (300, 4), (100, 16), (60, 32)])
def test_a_view_is_on_one_grid_with_the_pyramid(large, size, step):
    scene, pixels = large
    view = look(scene, 0, size)
    assert view.step == step
    shape = (-(-700 // step), -(-1100 // step))
    assert view.labels.shape == shape == view.pixels.shape[:2]
    assert max(shape) <= size
    rows, columns = (np.minimum(np.arange(0, n, step) + step // 2, n - 1) for n in (700, 1100))
    assert np.array_equal(view.pixels[..., 0], pixels[np.ix_(rows, columns)])
    assert np.array_equal(view.valid, (pixels != 9)[np.ix_(rows, columns)])
    level = min(step.bit_length(), len(scene.levels)) - 1
    assert len(scene.levels) >= 4
    if step == 1 << level:
        assert np.array_equal(view.labels, scene.levels[level][0])
    assert (view.labels[view.valid] != scene.void).mean() > 0.99


def test_a_large_frame_is_read_in_bands_or_only_in_its_middle(large, monkeypatch):
    from segengine.pictures import view as module

    scene, pixels = large
    whole = look(scene, 0, 300)
    monkeypatch.setattr(module, "_BAND", 5000)
    reads = []
    kind = type(scene)
    real = kind.pixels

    def counted(self, frame, rows, cols):
        reads.append((rows.stop - rows.start) * (cols.stop - cols.start))
        return real(self, frame, rows, cols)

    monkeypatch.setattr(kind, "pixels", counted)
    banded = look(scene, 0, 300)
    assert max(reads) <= 5000
    assert np.array_equal(banded.pixels, whole.pixels)
    assert np.array_equal(banded.labels, whole.labels)
    reads.clear()
    middle = look(scene, 0, 300, most=10_000)
    assert (middle.rows, middle.cols, middle.step) == (slice(200, 500), slice(400, 700), 1)
    assert sum(reads) == 300 * 300
    assert np.array_equal(middle.pixels[..., 0], pixels[200:500, 400:700])
    assert np.array_equal(middle.labels, scene.mask[0, 200:500, 400:700])
