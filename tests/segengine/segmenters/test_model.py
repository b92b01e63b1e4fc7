"""Networks a user brings: every format against Keras' own prediction, every wrong model in one line."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import h5py
import keras
import numpy as np
import onnx
import pyarrow as pa
import pytest
from onnx import TensorProto, helper, numpy_helper
from pycocotools import mask as coco_mask

import segengine
from segengine import models, tiling
from segengine.engines import tensorflow
from segengine.errors import JobError
from segengine.networks.crf import Crf, refine
from segengine.networks.scale import Scale
from segengine.segmenters import _detector, _files, _network
from segengine.segmenters._network import Blended, Exact, Resized, Valid
from segengine.segmenters.model import create
from segengine.types import Prediction, Segmenter

TF = tensorflow.library()
# TensorFlow's tensors and pycocotools do not know NumPy 2's copy keyword yet
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
SCALE = {"divide": 255}
UNET = {"start_neurons": 4, "depth": 2}
Image = np.ndarray[Any, np.dtype[Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def image() -> Image:
    return np.random.default_rng(0).integers(0, 256, (1, 100, 84, 3), np.uint8)


@pytest.fixture(scope="module")
def unet(folder: Path) -> Any:
    keras.utils.set_random_seed(3)
    return models.build("unet", bands=3, classes=4, **UNET)


@pytest.fixture(scope="module")
def pooled(folder: Path) -> Any:
    """A network that sees all of its window."""
    keras.utils.set_random_seed(4)
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(6, 5, padding="same", activation="relu")(inputs)
    everywhere = keras.layers.GlobalAveragePooling2D(keepdims=True)(x)
    x = keras.layers.Conv2D(3, 3, padding="same")(x * (1 + 4 * everywhere))
    model = keras.Model(inputs, x)
    model.save(folder / "pooled.keras")
    return model


def whole(model: Any, image: Image, stride: int) -> Image:
    """Keras' own prediction on the whole frames, scaled."""
    _, height, width, _ = image.shape
    padded = tiling.pad_to(image, stride).astype(np.float32) / 255
    return np.asarray(model.predict(padded, verbose=0))[:, :height, :width]


def write_bundle(path: Path, model: Any, **changes: Any) -> Path:
    path.mkdir(parents=True)
    about = {
        "format": 1, "architecture": "unet", "options": {**UNET, "activation": None}, "bands": 3,
        "classes": ["ground", "water", "road", "tree"], "scale": SCALE, "activation": "softmax",
        "colors": [[0, 0, 0], [0, 0, 255], [90, 90, 90], [0, 128, 0]], "size": [32, 32],
        "resize": False, "job": {}, "metrics": {"iou": 0.5},
    }  # fmt: skip
    (path / "bundle.json").write_text(json.dumps(about | changes))
    model.save_weights(path / "model.weights.h5")
    return path


# every format


def as_keras(model: Any, at: Path) -> dict[str, Any]:
    model.save(at / "m.keras")
    return {"path": str(at / "m.keras")}


def as_h5(model: Any, at: Path) -> dict[str, Any]:
    model.save(at / "m.h5")
    return {"path": str(at / "m.h5")}


def as_weights(model: Any, at: Path) -> dict[str, Any]:
    model.save_weights(at / "m.weights.h5")
    return {
        "path": str(at / "m.weights.h5"), "architecture": "unet", "options": UNET, "bands": 3,
        "classes": list("abcd"),
    }  # fmt: skip


def as_saved_model(model: Any, at: Path) -> dict[str, Any]:
    model.export(at / "saved", format="tf_saved_model", verbose=False)
    return {"path": str(at / "saved")}


def as_tflite(model: Any, at: Path) -> dict[str, Any]:
    as_saved_model(model, at)
    converter = TF.lite.TFLiteConverter.from_saved_model(str(at / "saved"))
    (at / "m.tflite").write_bytes(converter.convert())
    return {"path": str(at / "m.tflite")}


def as_bundle(model: Any, at: Path) -> dict[str, Any]:
    return {"path": str(write_bundle(at / "bundle", model)), "scale": None}


def as_zip(model: Any, at: Path) -> dict[str, Any]:
    write_bundle(at / "tree" / "bundle", model)
    return {"path": shutil.make_archive(str(at / "bundle"), "zip", at / "tree"), "scale": None}


def as_kind(model: Any, at: Path) -> dict[str, Any]:
    folder = write_bundle(at / "bundle", model)
    return {"kind": "unet", "weights": str(folder), "scale": None}


@pytest.mark.parametrize(
    "written",
    [as_keras, as_h5, as_weights, as_saved_model, as_tflite, as_bundle, as_zip, as_kind],
)
def test_every_format_gives_what_keras_predicts(
    unet: Any, image: Image, tmp_path: Path, written: Callable[..., dict[str, Any]]
) -> None:
    options = {"kind": "model", "scale": SCALE, **written(unet, tmp_path)}
    unbound = written in (as_saved_model, as_tflite)  # how far it sees is not known
    segmenter = segengine.create_segmenter(options | ({"window": 128} if unbound else {}))
    assert isinstance(segmenter, Segmenter)
    assert isinstance(segmenter.cut, Blended if unbound else Exact)
    found = segengine.predict(image, segmenter)
    expected = whole(unet, image, segmenter.stride)
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)
    np.testing.assert_array_equal(found.labels, found.probabilities.argmax(axis=-1))
    assert len(segmenter.weights) == 32
    assert len(segmenter.classes) == 4


def onnx_model(path: Path, weights: Image, shape: list[Any]) -> Path:
    """A value a class by one product a pixel, channels first."""
    out = [shape[0], len(weights), *shape[2:]]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "weights"], ["values"])],
        "pixelwise",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, out)],
        [numpy_helper.from_array(weights[:, :, None, None].astype(np.float32), "weights")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(made.SerializeToString())
    return path


@pytest.mark.parametrize("engine", [None, "onnxruntime", "openvino"])
@pytest.mark.parametrize("shape", [["n", 3, "h", "w"], [2, 3, 32, 32]])
def test_onnx_channels_first_with_bands_and_scale(
    tmp_path: Path, engine: Any, shape: list[Any]
) -> None:
    rng = np.random.default_rng(5)
    weights = rng.normal(size=(4, 3))
    path = onnx_model(tmp_path / "m.onnx", weights, shape)
    pixels = rng.integers(0, 4000, (1, 64, 30, 5), np.uint16)  # three windows
    options = {"divide": 1000, "mean": [0.5, 1, 2], "std": [1, 2, 0.5]}
    segmenter = create(
        str(path), bands=[5, 1, 2], scale=options, activation="softmax", window=32, engine=engine
    )
    assert segmenter.layout == "nchw"
    assert segmenter.stride == 16
    scaled = (pixels[..., [4, 0, 1]] / 1000 - [0.5, 1, 2]) / [1, 2, 0.5]
    values = np.einsum("cb,nyxb->nyxc", weights, scaled)
    expected = np.exp(values - values.max(-1, keepdims=True))
    expected /= expected.sum(-1, keepdims=True)
    found = segengine.predict(pixels, segmenter)
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)


def digest(path: Path) -> str:
    """Of the bytes that would be loaded."""
    with _files.private(path) as copy:
        return _files.digest(copy)


def test_the_digest_is_of_what_an_onnx_model_consists_of(tmp_path: Path) -> None:
    path = onnx_model(tmp_path / "m.onnx", np.ones((4, 3)), ["n", 3, "h", "w"])
    alone = digest(path)
    assert alone == _files.digest_of([("", path)])  # of a store from before
    model = onnx.load(path)
    onnx.save_model(
        model, path, save_as_external_data=True, location="m.onnx.data", size_threshold=0
    )
    beside = tmp_path / "m.onnx.data"
    before = digest(path)
    assert before == _files.digest_of([("", path), (".data", beside)])
    (tmp_path / "m.onnx.txt").write_text("of no tensor")
    assert digest(path) == before
    beside.write_bytes(beside.read_bytes()[:-1] + b"@")
    assert digest(path) != before
    assert create(str(path), window=8).weights == digest(path)


def test_the_digest_of_a_saved_model_is_of_its_files_and_their_names(
    unet: Any, tmp_path: Path
) -> None:
    folder = Path(as_saved_model(unet, tmp_path)["path"])
    before = digest(folder)
    inside = [(p.relative_to(folder).as_posix(), p) for p in folder.rglob("*") if p.is_file()]
    assert before == _files.digest_of(inside)
    (folder / "README.txt").write_text("of no model")
    assert digest(folder) == before
    (folder / "fingerprint.pb").write_bytes(b"other")
    assert digest(folder) != before


# one channel, activations, colours


def test_one_channel_tells_two_classes(tmp_path: Path) -> None:
    path = onnx_model(tmp_path / "m.onnx", np.array([[1.0]]), ["n", 1, "h", "w"])
    pixels = np.array([[-2.0, 0.0, 1e-3, 90.0]], np.float32)
    segmenter = create(str(path), activation="sigmoid", window=8)
    assert segmenter.classes == ("background", "object")
    found = segengine.predict(pixels, segmenter)
    np.testing.assert_array_equal(found.labels, [[0, 0, 1, 1]])  # 0.5 is not above 0.5
    expected = 1 / (1 + np.exp(-pixels.astype(np.float64)))
    np.testing.assert_allclose(found.probabilities[..., 1], expected, atol=1e-6)
    np.testing.assert_allclose(found.probabilities.sum(-1), 1, atol=1e-6)
    strict = create(str(path), activation="sigmoid", window=8, threshold=0.9)
    np.testing.assert_array_equal(segengine.segment(pixels, strict), [[0, 0, 0, 1]])


def test_what_a_bundle_says_is_used(unet: Any, tmp_path: Path) -> None:
    segmenter = create(str(write_bundle(tmp_path / "b", unet)))
    assert segmenter.classes == ("ground", "water", "road", "tree")
    assert segmenter.colors[3] == (0, 128, 0)
    assert segmenter.scale == Scale(255.0)
    assert segmenter.activation == "softmax"
    renamed = create(str(tmp_path / "b"), classes=list("abcd"))
    assert renamed.classes == tuple("abcd")


def test_an_activation_is_never_applied_twice(unet: Any, tmp_path: Path) -> None:
    path = as_keras(unet, tmp_path)["path"]  # ends in softmax
    assert create(path).activation == create(path, activation="softmax").activation == "none"


def test_a_network_of_resized_photos_sees_whole_frames(unet: Any, tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "b", unet, resize=True)
    segmenter = create(str(path))
    assert segmenter.cut == Resized((32, 32))
    assert segmenter.halo is None
    photos = np.random.default_rng(6).integers(0, 256, (3, 50, 41, 3), np.uint8)
    found = segengine.predict(photos, segmenter)
    for photo, got in zip(photos, found.probabilities, strict=True):
        small = cv2.resize(photo.astype(np.float32) / 255, (32, 32))
        expected = cv2.resize(unet.predict(small[None], verbose=0)[0], (41, 50))
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_nodata_does_not_spread(pooled: Any, folder: Path) -> None:
    segmenter = create(str(folder / "pooled.keras"), window=32)
    pixels = np.random.default_rng(7).random((1, 64, 64, 3), np.float32)
    pixels[0, 5, 5, 1] = np.nan
    assert np.isfinite(segmenter.segment(pixels).probabilities).all()


def test_a_crf_refines_whole_frames(unet: Any, tmp_path: Path, image: Image) -> None:
    path = as_keras(unet, tmp_path)["path"]
    plain, crf = create(path, scale=SCALE), create(path, scale=SCALE, crf={"steps": 2})
    assert crf.halo is None
    expected = refine(plain.segment(image).probabilities, image, Crf(steps=2))
    found = crf.segment(image)
    np.testing.assert_array_equal(found.probabilities, expected)
    np.testing.assert_array_equal(found.labels, expected.argmax(axis=-1))
    np.testing.assert_array_equal(crf.label(image).labels, found.labels)


# windows


def test_tiled_equals_whole_for_a_finite_view(unet: Any, tmp_path: Path) -> None:
    path = as_keras(unet, tmp_path)["path"]
    segmenter = create(path, scale=SCALE, window=96, batch=3)
    assert isinstance(segmenter.cut, Exact)
    image = np.random.default_rng(8).integers(0, 256, (2, 260, 203, 3), np.uint8)
    found = segengine.predict(image, segmenter)
    np.testing.assert_allclose(found.probabilities, whole(unet, image, 4), atol=1e-5)


@pytest.mark.parametrize("overlap", [0.5, 0.25, 0.75])
def test_blended_masks_do_not_depend_on_the_cut(
    pooled: Any, folder: Path, overlap: float, new_bench: Any, noise: Any
) -> None:
    spec = {
        "kind": "model", "path": str(folder / "pooled.keras"), "scale": SCALE, "window": 32,
        "overlap": overlap,
    }  # fmt: skip
    image = noise(9, (150, 131, 3))
    segmenter = segengine.create_segmenter(spec)
    assert isinstance(segmenter.cut, Blended)
    expected = segengine.predict(image, segmenter)
    seams = segengine.metrics.create("seams", classes=segmenter.classes, every=segmenter.seams)
    score = seams.compute(seams.update(seams.empty(), Prediction(expected.labels[None])))
    for shard in (64, 48, 256):
        bench = new_bench()
        bench.put("a.zarr", image)
        figures = bench.run(spec, store={"shard": shard, "probabilities": True}).metrics
        assert figures["overall"][f"seams(every={segmenter.seams})"] == score
        scene = bench.open()["a"]
        np.testing.assert_array_equal(scene.mask[0], expected.labels)
        stored = np.moveaxis(np.asarray(scene.group["probabilities/0"])[0], 0, -1)
        np.testing.assert_array_equal(stored, expected.probabilities)


def test_blended_is_the_weighted_mean_of_windows(pooled: Any, folder: Path, image: Image) -> None:
    segmenter = create(str(folder / "pooled.keras"), scale=SCALE, window=32, activation="none")
    padded = tiling.pad_to(image, 16)
    total, weight = np.zeros((*padded.shape[1:3], 3)), np.zeros((*padded.shape[1:3], 1))
    hann = np.sin(np.pi * (np.arange(32) + 0.5) / 32) ** 2
    flat = (hann[:, None] * hann)[..., None]
    corners = [
        (y, x)
        for y in range(0, padded.shape[1] - 31, 16)
        for x in range(0, padded.shape[2] - 31, 16)
    ]
    windows = np.stack([padded[0, y : y + 32, x : x + 32] for y, x in corners])
    predicted = pooled.predict(windows / np.float32(255), verbose=0)
    for (y, x), values in zip(corners, predicted, strict=True):
        total[y : y + 32, x : x + 32] += values * flat
        weight[y : y + 32, x : x + 32] += flat
    expected = (total / weight)[:100, :84]
    found = segengine.predict(image, segmenter).probabilities[0]
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_labels_alone_equal_those_with_probabilities(unet: Any, tmp_path: Path) -> None:
    segmenter = create(as_keras(unet, tmp_path)["path"], window=96)
    pixels = np.random.default_rng(1).random((3, 128, 96, 3), np.float32)
    alone = segmenter.label(pixels)
    assert alone.probabilities is None
    np.testing.assert_array_equal(alone.labels, segmenter.segment(pixels).labels)


def test_argmax_and_activations_against_numpy() -> None:
    rng = np.random.default_rng(2)
    for count in (2, 5, 70):
        values = rng.integers(-3, 3, (20, 30, count)).astype(np.float32)  # many ties
        np.testing.assert_array_equal(_network.argmax(values), values.argmax(-1))
    huge = np.array([-1e30, -100, 0, 100, 1e30], np.float32)
    np.testing.assert_allclose(_network.activate(huge, "sigmoid"), [0, 0, 0.5, 1, 1], atol=1e-30)
    assert np.isfinite(_network.activate(huge, "softmax")).all()


# wrong models


def refused(options: dict[str, Any]) -> str:
    with pytest.raises(JobError) as caught:
        segengine.create_segmenter({"kind": "model", **options})
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("name", "says"),
    [("a.t7", "Torch7"), ("a.pt", "torch.onnx.export"), ("a.pth", "pickles"), ("a.pkl", "pickle")],
)
def test_unsafe_formats_are_refused_with_the_route(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04.")
    assert says in refused({"path": str(tmp_path / name)})


@pytest.mark.parametrize("name", ["a.keras", "a.h5", "a.weights.h5", "a.tflite", "a.onnx", "a.x"])
def test_corrupt_and_unknown_files(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"nothing that any of them would read")
    options = {"path": str(tmp_path / name)}
    if name == "a.weights.h5":
        options |= {"architecture": "unet", "bands": 3, "classes": ["a", "b"]}  # type: ignore[dict-item]
    assert refused(options).startswith(f"path: {tmp_path / name}: ")
    assert "no such file" in refused({"path": str(tmp_path / "none.keras")})


def test_truncated_file(unet: Any, tmp_path: Path) -> None:
    path = Path(as_keras(unet, tmp_path)["path"])
    path.write_bytes(path.read_bytes()[:-2000])
    assert "not a Keras model that loads" in refused({"path": str(path)})


@pytest.mark.parametrize("name", ["code.keras", "code.h5"])
def test_lambda_layers_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    layer = {"class_name": "Lambda", "config": {"function": ["4wEAAAA=", None, None]}}
    config = json.dumps({"class_name": "Functional", "config": {"layers": [layer]}})
    if path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            file.attrs["model_config"] = config
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", config)
            archive.writestr("metadata.json", "{}")
    assert "Lambda layer, which is code" in refused({"path": str(path)})


def test_weights_that_are_not_numbers(unet: Any, tmp_path: Path) -> None:
    broken = keras.models.clone_model(unet)
    values = broken.get_weights()
    values[0][0, 0, 0, 0] = np.nan
    broken.set_weights(values)
    assert "NaN" in refused(as_keras(broken, tmp_path))
    assert "NaN" in refused(as_saved_model(broken, tmp_path))


def test_wrong_counts_and_sizes(unet: Any, tmp_path: Path) -> None:
    path = as_keras(unet, tmp_path)["path"]
    assert refused({"path": path, "bands": [1, 2]}) == "bands: 2 are named and the model takes 3"
    assert "3 are named" in refused({"path": path, "classes": ["a", "b", "c"]})
    assert refused({"path": path, "scale": {"mean": [1, 2]}}).startswith("scale.mean: ")
    assert refused({"path": path, "scale": {"by": 2}}).startswith("scale.by: ")
    assert refused({"path": path, "engine": "onnxruntime"}).startswith("engine: ")
    assert refused({"path": path, "engine": "torch"}).startswith("engine: ")
    assert refused({"path": path, "window": 0}).startswith("window: ")
    assert refused({"path": path, "overlap": 1}).startswith("overlap: ")
    assert "architecture" in refused({"path": path, "architecture": "unet"})
    fixed = models.build("unet", bands=1, classes=1, size=(64, 64), **UNET)
    path = as_keras(fixed, tmp_path)["path"]
    assert "takes 64 x 64 only, not 128" in refused({"path": path, "window": 128})
    assert create(path).cut == Blended(64, 32, True)
    segmenter = create(path)
    with pytest.raises(ValueError, match="takes 1 and the pixels have 3"):
        segmenter.segment(np.zeros((1, 64, 64, 3), np.uint8))
    with pytest.raises(ValueError, match="4 is asked for and the pixels have 3"):
        create(path, bands=[4]).check_pixels(3, "uint8")


def test_weights_need_their_architecture(unet: Any, tmp_path: Path) -> None:
    options = as_weights(unet, tmp_path)
    for name in ("architecture", "bands", "classes"):
        fewer = {k: v for k, v in options.items() if k not in (name, "options")}
        assert f"set `{name}`" in refused(fewer)
    assert "do not fit" in refused(options | {"options": {}})
    assert "options: unet" in refused(options | {"options": {"height": 3}})
    bundle = write_bundle(tmp_path / "b", unet, format=7)
    assert "format 7 is not known" in refused({"path": str(bundle)})


def test_saved_models_without_a_signature_or_with_file_operations(tmp_path: Path) -> None:
    class Plain(TF.Module):  # type: ignore[misc]
        @TF.function(input_signature=[TF.TensorSpec((None, None, None, 3), TF.float32)])  # type: ignore[untyped-decorator]
        def spy(self, x: Any) -> Any:
            return x + TF.cast(TF.strings.length(TF.io.read_file("/etc/hostname")), TF.float32)

    TF.saved_model.save(TF.Module(), str(tmp_path / "none"), signatures={})
    assert "no serving signature" in refused({"path": str(tmp_path / "none")})
    plain = Plain()
    TF.saved_model.save(plain, str(tmp_path / "spy"), signatures=plain.spy)
    assert "op ReadFile in function __inference_" in refused({"path": str(tmp_path / "spy")})


def test_a_wrong_model_stops_a_run_before_any_shard(bench: Any, noise: Any, tmp_path: Path) -> None:
    bench.put("a.png", noise(1, (40, 40, 3)))
    (tmp_path / "m.keras").write_bytes(b"nothing")
    with pytest.raises(JobError, match=r"segmenter.path: .*not a Keras model"):
        bench.run({"kind": "model", "path": str(tmp_path / "m.keras")})
    assert not bench.store.exists()
    assert JobError.exit_code == 2


# the TF Object Detection API


BOXES = np.array(
    [[0.1, 0.1, 0.6, 0.5], [0.3, 0.2, 0.9, 0.95], [0, 0, 1, 1], [0.4, 0.4, 0.4, 0.6]], np.float32
)


class Detections(TF.Module):  # type: ignore[misc]
    """What an exported detector gives, whatever it sees."""

    masks = np.random.default_rng(3).random((1, 4, 9, 9), np.float32)

    @TF.function(input_signature=[TF.TensorSpec((1, None, None, 3), TF.uint8)])  # type: ignore[untyped-decorator]
    def serve(self, input_tensor: Any) -> Any:
        return {
            "detection_boxes": TF.constant(BOXES[None]),
            "detection_classes": TF.constant([[2.0, 1.0, 1.0, 2.0]]),
            "detection_scores": TF.constant([[0.9, 0.8, 0.2, 0.7]]),
            "detection_masks": TF.constant(self.masks),
            "num_detections": TF.cast(TF.shape(input_tensor)[:1] * 0 + 4, TF.float32),
        }


def reframed(mask: Image, box: Image, size: tuple[int, int]) -> Image:
    """As the API's `reframe_box_masks_to_image_masks`: a crop of the mask by the inverse box."""
    low, high = box[:2], box[2:]
    inverse = np.concatenate([-low / (high - low), (1 - low) / (high - low)])
    crop = TF.image.crop_and_resize(mask[None, ..., None], [inverse], [0], size)
    return np.asarray(crop)[0, ..., 0]


def test_detectors_give_instances_and_objects(tmp_path: Path) -> None:
    module = Detections()
    TF.saved_model.save(module, str(tmp_path / "d"), signatures=module.serve)
    assert refused({"path": str(tmp_path / "d")}).startswith("classes: ")
    segmenter = create(str(tmp_path / "d"), classes=["cat", "dog"])
    assert isinstance(segmenter, _detector.Detector)
    assert isinstance(segmenter, Segmenter)
    pixels = np.zeros((70, 90, 3), np.uint8)
    found = segengine.predict(pixels, segmenter)
    expected = [reframed(module.masks[0, i], BOXES[i], (70, 90)) > 0.5 for i in (0, 1)]
    table: pa.Table = found.objects
    assert sorted(table.column("class").to_pylist()) == [1, 2]
    for row in table.to_pylist():
        mask = expected[0 if row["class"] == 2 else 1]
        drawn = coco_mask.decode({"size": [70, 90], "counts": row["rle"].encode()})
        np.testing.assert_array_equal(drawn, mask)
        assert row["area"] == mask.sum()
        assert row["score"] == pytest.approx(0.9 if row["class"] == 2 else 0.8)
        top, left, bottom, right = BOXES[0 if row["class"] == 2 else 1] * [70, 90, 70, 90]
        np.testing.assert_allclose(row["bbox"], [left, top, right - left, bottom - top], atol=1e-4)
    labels = np.where(expected[0], 2, np.where(expected[1], 1, 0))  # the better score on top
    np.testing.assert_array_equal(found.labels, labels)
    ids = [i for i in dict.fromkeys(found.instances.ravel().tolist()) if i]
    assert ids == [1, 2]
    assert table.column("id").to_pylist() == [1, 2]
    two = segengine.predict(np.stack([pixels, pixels]), segmenter)
    np.testing.assert_array_equal(two.instances, np.stack([found.instances] * 2))
    expected_rows = [row | {"frame": i} for i in (0, 1) for row in table.to_pylist()]
    assert two.objects.to_pylist() == expected_rows


def test_a_detector_s_onnx_export_gives_the_same(tmp_path: Path) -> None:
    module = Detections()
    TF.saved_model.save(module, str(tmp_path / "d"), signatures=module.serve)
    outputs = {
        "detection_boxes": BOXES[None],
        "detection_classes": np.array([[2, 1, 1, 2]], np.float32),
        "detection_scores": np.array([[0.9, 0.8, 0.2, 0.7]], np.float32),
        "detection_masks": module.masks,
        "num_detections": np.array([4], np.float32),
    }
    nodes = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value))
        for name, value in outputs.items()
    ]
    taken = helper.make_tensor_value_info(
        "input_tensor", TensorProto.UINT8, (1, "height", "width", 3)
    )
    given = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape)
        for name, value in outputs.items()
    ]
    graph = helper.make_graph(nodes, "detector", [taken], given)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (tmp_path / "d.onnx").write_bytes(made.SerializeToString())
    pixels = np.zeros((70, 90, 3), np.uint8)
    first, second = (
        segengine.predict(pixels, create(str(tmp_path / name), classes=["cat", "dog"]))
        for name in ("d", "d.onnx")
    )
    np.testing.assert_array_equal(first.labels, second.labels)
    np.testing.assert_array_equal(first.instances, second.instances)
    assert first.objects.to_pylist() == second.objects.to_pylist()


def valid_unet(side: int | None, deep: bool = True) -> Any:
    """Convolutions without padding; `deep`: with a level of pooling, whose skip is cropped."""
    keras.utils.set_random_seed(11)
    layers = keras.layers
    inputs = keras.Input((side, side, 3))
    x = skip = layers.Conv2D(4, 3, activation="relu")(inputs)
    if deep:
        x = layers.MaxPooling2D()(x)
        x = layers.Conv2D(6, 3, activation="relu")(x)
        x = layers.Conv2DTranspose(4, 2, strides=2)(x)
        x = layers.Concatenate()([layers.Cropping2D(2)(skip), x])
    x = layers.Conv2D(4, 3, activation="relu")(x)
    return keras.Model(inputs, layers.Conv2D(3, 1, activation="softmax")(x))


@pytest.mark.parametrize("side", [None, 40])
def test_a_network_of_valid_convolutions_is_keras_own_prediction_of_each_window(
    side: int | None, tmp_path: Path, image: Image
) -> None:
    model = valid_unet(side)
    model.save(tmp_path / "a.keras")
    segmenter = create(str(tmp_path / "a.keras"), scale=SCALE, window=40)
    assert segmenter.cut == Valid(40, 4)
    step, (_, height, width, _) = 32, image.shape
    around = [(0, 0), *((4, 4 + step - n % step) for n in (height, width)), (0, 0)]
    padded = np.pad(tiling.pad_to(image, step), around, "symmetric").astype(np.float32) / 255
    wanted = np.zeros((height + step, width + step, 3))
    for y in range(0, height, step):
        for x in range(0, width, step):
            values = model(padded[:, y : y + 40, x : x + 40]).numpy()[0]
            wanted[y : y + step, x : x + step] = values
    found = segengine.predict(image, segmenter)
    inside = np.s_[: height - height % step, : width - width % step]
    np.testing.assert_allclose(
        found.probabilities[0][inside], wanted[:height, :width][inside], atol=1e-5
    )


def test_valid_convolutions_alone_see_what_a_padded_frame_shows(
    tmp_path: Path, image: Image
) -> None:
    model = valid_unet(None, deep=False)
    model.save(tmp_path / "a.keras")
    segmenter = create(str(tmp_path / "a.keras"), scale=SCALE, window=36)
    assert segmenter.cut == Valid(36, 2)
    wanted = model(np.pad(image, ((0, 0), (2, 2), (2, 2), (0, 0))).astype(np.float32) / 255)
    found = segengine.predict(image, segmenter).probabilities
    inside = np.s_[:, 2:-2, 2:-2]
    np.testing.assert_allclose(found[inside], wanted.numpy()[inside], atol=1e-5)


def test_masks_of_valid_convolutions_do_not_depend_on_the_cut(
    tmp_path: Path, new_bench: Any, noise: Any
) -> None:
    valid_unet(40).save(tmp_path / "a.keras")
    spec = {"kind": "model", "path": str(tmp_path / "a.keras"), "scale": SCALE}
    image = noise(9, (150, 131, 3))
    expected = segengine.predict(image, segengine.create_segmenter(spec)).labels
    assert len(np.unique(expected)) > 1
    for shard in (64, 48, 256):
        bench = new_bench()
        bench.put("a.zarr", image)
        bench.run(spec, store={"shard": shard})
        np.testing.assert_array_equal(bench.open()["a"].mask[0], expected)


@pytest.mark.parametrize("overlap", [0.5, 0.2])
def test_a_network_that_pools_all_of_its_window_overlaps(
    new_bench: Callable[[], Any], tmp_path: Path, image: Image, overlap: float
) -> None:
    """Its windows begin where its poolings do not: each is run whole, and never a part of one."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((64, 64, 3))
    seen = keras.layers.UpSampling2D(64)(keras.layers.AveragePooling2D(64)(inputs))
    both = keras.layers.Concatenate()([inputs, seen])
    keras.Model(inputs, keras.layers.Conv2D(3, 1, activation="softmax")(both)).save(
        tmp_path / "pools.keras"
    )
    spec = {"kind": "model", "path": str(tmp_path / "pools.keras"), "scale": SCALE}
    spec |= {"overlap": overlap} if overlap != 0.5 else {}
    segmenter = segengine.create_segmenter(spec)
    assert segmenter.cut == Blended(64, round(64 * (1 - overlap)), True)  # type: ignore[union-attr]
    expected = segengine.predict(image[0], segmenter).labels
    for shard in (64, 256):
        bench = new_bench()
        bench.put("a.zarr", image[0])
        bench.run(spec, store={"shard": shard})
        np.testing.assert_array_equal(bench.open()["a"].mask[0], expected)


def test_what_is_a_margin_and_what_is_none(tmp_path: Path) -> None:
    """Half the size is no margin."""
    odd = valid_unet(None)
    odd.save(tmp_path / "a.keras")
    assert create(str(tmp_path / "a.keras"), scale=SCALE).cut.margin == 4  # type: ignore[union-attr]
    inputs = keras.Input((64, 64, 3))
    half = keras.Model(inputs, keras.layers.Conv2D(2, 2, strides=2, activation="softmax")(inputs))
    half.save(tmp_path / "half.keras")
    assert "all but a margin" in refused({"path": str(tmp_path / "half.keras")})
