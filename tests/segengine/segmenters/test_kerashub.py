"""Presets of keras-hub, as it saves them, against what keras-hub itself predicts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import segengine
from segengine.engines.tensorflow import library
from segengine.errors import JobError

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
CLASSES = list("abcde")
SCALE = {"scale": [1 / 58, 1 / 57, 1 / 56], "offset": [-2.1, -2.0, -1.8]}
SIDES = {"deeplab": 96, "segformer": 64}


def deeplab(models: Any, layers: Any) -> Any:
    encoder = models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 64, 64, 64],
        stackwise_num_blocks=[1, 1, 1, 1],
        stackwise_num_strides=[1, 2, 2, 2],
        block_type="basic_block",
        image_shape=(None, None, 3),
    )
    backbone = models.DeepLabV3Backbone(
        encoder, "P4", 4, [2, 4, 6], low_level_feature_key="P2", projection_filters=8
    )
    converter = layers.DeepLabV3ImageConverter(image_size=(96, 96), **SCALE)
    preprocessor = models.DeepLabV3ImageSegmenterPreprocessor(converter)
    return models.DeepLabV3ImageSegmenter(backbone, len(CLASSES), preprocessor=preprocessor)


def segformer(models: Any, layers: Any) -> Any:
    encoder = models.MiTBackbone(
        layerwise_depths=[1, 1, 1, 1],
        num_layers=4,
        layerwise_num_heads=[1, 1, 2, 2],
        layerwise_sr_ratios=[8, 4, 2, 1],
        max_drop_path_rate=0.1,
        layerwise_patch_sizes=[7, 3, 3, 3],
        layerwise_strides=[4, 2, 2, 2],
        hidden_dims=[8, 16, 24, 32],
        image_shape=(64, 64, 3),
    )
    backbone = models.SegFormerBackbone(encoder, 16)
    converter = layers.SegFormerImageConverter(image_size=(64, 64), **SCALE)
    preprocessor = models.SegFormerImageSegmenterPreprocessor(converter)
    return models.SegFormerImageSegmenter(backbone, len(CLASSES), preprocessor=preprocessor)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Path]]:
    """Random networks, and the folders they are saved in."""
    library()
    import keras
    import keras_hub

    found = {}
    for name, build in (("deeplab", deeplab), ("segformer", segformer)):
        keras.utils.set_random_seed(2)
        task = build(keras_hub.models, keras_hub.layers)
        rng = np.random.default_rng(3)
        for layer in task._flatten_layers():  # so that training and inference differ
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.moving_mean.assign(rng.normal(0, 0.2, layer.moving_mean.shape))
                layer.moving_variance.assign(rng.uniform(0.5, 2, layer.moving_variance.shape))
        folder = tmp_path_factory.mktemp(name)
        task.save_to_preset(str(folder))
        found[name] = task, folder
    return found


@pytest.fixture
def folder(tasks: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tasks["deeplab"][1], tmp_path / "preset"))


def spec(folder: Path, **options: Any) -> dict[str, Any]:
    return {"kind": "keras-hub", "path": str(folder), **options}


@pytest.mark.parametrize(
    ("name", "engine"),
    [("deeplab", "tensorflow"), ("segformer", "tensorflow"), ("segformer", "openvino")],
)
def test_probabilities_are_those_of_keras_hub(
    name: str, engine: str, tasks: Any, noise: Any
) -> None:
    task, folder = tasks[name]
    image = noise(4, (SIDES[name], SIDES[name], 3))
    logits = task.predict(image[None], verbose=0)  # which prepares the image itself
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    found = segengine.predict(image, spec(folder, engine=engine, classes=CLASSES))
    np.testing.assert_allclose(found.probabilities, expected[0], atol=2e-5)
    assert expected.std(axis=(0, 1, 2)).max() > 1e-3


def test_windows_cover_frames_of_any_size(tasks: Any, noise: Any) -> None:
    segmenter = segengine.create_segmenter(spec(tasks["segformer"][1], classes=CLASSES))
    assert segmenter.classes == tuple(CLASSES)
    for size in ((30, 41), (150, 131)):
        found = segengine.predict(noise(1, (*size, 3)), segmenter)
        assert found.labels.shape == size
        np.testing.assert_allclose(found.probabilities.sum(-1), 1, atol=1e-5)


def test_whole_frames_may_be_resized(tasks: Any, noise: Any) -> None:
    task, folder = tasks["deeplab"]
    image = noise(4, (96, 96, 3))
    logits = task.predict(image[None], verbose=0)  # which prepares the image itself
    segmenter = segengine.create_segmenter(spec(folder, resize=[96, 96]))
    assert segmenter.halo is None
    np.testing.assert_array_equal(segengine.segment(image, segmenter), logits[0].argmax(-1))


def test_a_run_labels_with_it_and_knows_its_weights(
    folder: Path, bench: Any, noise: Any, plain_report: None
) -> None:
    image = noise(2, (110, 100, 3))
    bench.put("0.png", image)
    assert bench.run(spec(folder)).computed == 1
    (mask,) = (scene.mask for scene in bench.open().scenes.values())
    np.testing.assert_array_equal(mask[0][:110, :100], segengine.segment(image, spec(folder)))
    (folder / "metadata.json").write_text("{}")
    (folder / "README.md").write_text("A model card.")
    assert bench.run(spec(folder)).computed == 0
    task = json.loads((folder / "image_converter.json").read_text())
    task["config"]["antialias"] = True
    (folder / "image_converter.json").write_text(json.dumps(task))
    assert bench.run(spec(folder)).computed == 1


def test_a_preset_by_name_is_fetched_from_where_keras_hub_says(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import kagglehub

    asked: list[str] = []

    def download(handle: str) -> str:
        asked.append(handle)
        if len(asked) > 2:
            raise OSError("HTTPSConnectionPool: Failed to resolve\nand more")
        return str(folder)

    monkeypatch.setattr(kagglehub, "model_download", download)
    kind = {"kind": "keras-hub"}
    name = "deeplab_v3_plus_resnet50_pascalvoc"
    found = segengine.create_segmenter(kind | {"preset": name})
    assert len(found.classes) == len(CLASSES)
    segengine.create_segmenter(kind | {"preset": "kaggle://me/mine/keras/net/1"})
    assert [a.rpartition("/")[0] for a in asked] == [
        f"keras/deeplabv3plus/keras/{name}", "me/mine/keras/net",
    ]  # fmt: skip
    with pytest.raises(JobError, match=rf"^preset: {name}: cannot be fetched: HTTPS.*`path`$"):
        segengine.create_segmenter(kind | {"preset": name})
    with pytest.raises(JobError, match=r"^preset: resnet: not a preset .*segformer_b0_ade20k_512"):
        segengine.create_segmenter(kind | {"preset": "resnet"})
    with pytest.raises(JobError, match=r"^preset: give"):
        segengine.create_segmenter(kind)


def planted(folder: Path, change: Callable[[dict[str, Any]], None], name: str) -> None:
    config = json.loads((folder / name).read_text())
    change(config)
    (folder / name).write_text(json.dumps(config))


@pytest.mark.parametrize("name", ["task.json", "config.json", "preprocessor.json"])
def test_code_in_a_preset_is_refused(name: str, folder: Path) -> None:
    foreign = {"module": "os", "class_name": "system", "config": {"command": "true"}}
    planted(folder, lambda c: c["config"].update(more=[foreign]), name)
    with pytest.raises(JobError, match=rf"^path: .*: {name}: .* names os.system, which is none"):
        segengine.create_segmenter(spec(folder))
    code = {"module": "keras.layers", "class_name": "Lambda", "config": {}}
    planted(folder, lambda c: c["config"].update(more=code), name)
    with pytest.raises(JobError, match=r"^path: .*: it holds a Lambda layer, which is code"):
        segengine.create_segmenter(spec(folder))


def test_wrong_presets_are_one_line(folder: Path, tmp_path: Path) -> None:
    def refused(match: str, **options: Any) -> None:
        with pytest.raises(JobError, match=match) as error:
            segengine.create_segmenter(spec(folder, **options))
        assert "\n" not in str(error.value)

    refused(r"^classes: 2 are named and the model has 5 channels", classes=["a", "b"])
    refused(r"^bands: 4 are named and the model takes 3", bands=[1, 2, 3, 4])
    refused(r"^window: must be auto or", window=0)
    refused(r"^path: .*: it does not take windows of \(50, 50\)", window=50)
    refused(r"^engine: must be one of", engine="fast")
    data = (folder / "model.weights.h5").read_bytes()
    (folder / "model.weights.h5").write_bytes(data[: len(data) // 2])
    refused(r"^path: .*: not a preset that loads: ")
    (folder / "model.weights.h5").write_bytes(data)
    (folder / "task.json").write_text("{")
    refused(r"^path: .*: task.json is damaged: ")
    (folder / "task.json").unlink()
    refused(r"^path: .*: there is no task.json; `save_to_preset`")
    refused(r"^path: .*: there is no config.json", path=str(tmp_path / "nowhere"))
