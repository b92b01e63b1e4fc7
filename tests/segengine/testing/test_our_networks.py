"""The segmenters that are networks pass the suite, with small random weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from segengine import registry
from segengine.commands.demo import BUNDLE
from segengine.engines.tensorflow import library
from segengine.reference import create_segmenter
from segengine.testing import SegmenterTests
from tests.segengine.models.maskrcnn import h5
from tests.segengine.models.maskrcnn.drawn import draw_matterport
from tests.segengine.segmenters import sams
from tests.segengine.segmenters import test_kerashub as kerashub

pytestmark = [
    pytest.mark.system,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]
WINDOW = {"window": 64, "scale": {"divide": 255}}


def unet(folder: Path) -> dict[str, Any]:
    return {"kind": "unet", "weights": str(files("segengine") / BUNDLE)}


def pooled(folder: Path) -> dict[str, Any]:
    """A network that sees all of its window, so that windows fade into one another."""
    import keras
    from keras import layers

    image = keras.Input((None, None, 3))
    x = layers.Conv2D(6, 3, padding="same", activation="relu")(image)
    gate = layers.Dense(6, activation="sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    x = layers.Conv2D(3, 1, activation="softmax")(layers.Multiply()([x, gate]))
    keras.Model(image, x).save(folder / "pooled.keras")
    return {"kind": "model", "path": str(folder / "pooled.keras"), **WINDOW}


def architecture(kind: str, **options: Any) -> Callable[[Path], dict[str, Any]]:
    def build(folder: Path) -> dict[str, Any]:
        model = registry.create("models", kind, {"bands": 3, "classes": 3, **options})
        path = folder / f"{kind}.weights.h5"
        model.save_weights(path)
        spec = {"kind": kind, "weights": str(path), "bands": 3, "classes": list("abc"), **WINDOW}
        return {**spec, "options": options} if options else spec

    return build


def proposals(kind: str) -> Callable[[Path], dict[str, Any]]:
    def build(folder: Path) -> dict[str, Any]:
        path = folder / f"{kind}.keras"
        registry.create("models", kind, {"bands": 3, "backbone": "resnet14"}).save(path)
        found = {"pyramid": [0.5, 1.0], "min_score": 0.5, "most": 5}
        return {"kind": kind, "weights": str(path), **found}

    return build


def preset(folder: Path) -> dict[str, Any]:
    """Of keras-hub, as it saves one."""
    import keras_hub

    task = kerashub.deeplab(keras_hub.models, keras_hub.layers)
    task.save_to_preset(str(folder / "preset"))
    return {"kind": "keras-hub", "path": str(folder / "preset"), "window": 96}


def ensemble(folder: Path) -> dict[str, Any]:
    """The same network with windows of two sizes."""
    member = pooled(folder)
    return {"kind": "ensemble", "members": [member, {**member, "window": 96}]}


def anything(folder: Path) -> dict[str, Any]:
    """An encoder and a decoder, asked at a few points of each window."""
    files = {
        "encoder": sams.encoder(folder / "e.onnx"),
        "decoder": sams.decoder(folder / "d.onnx"),
    }
    return {"kind": "sam", **files, "points": 2, "window": 64, "min_score": 0.1}


NETWORKS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "unet": unet,
    "model": pooled,
    "unet-mobilenetv2": architecture("unet-mobilenetv2"),
    "deeplab": architecture("deeplab", backbone="mobilenetv2"),
    "fastfcn": architecture("fastfcn", backbone="resnet14"),
    "gscnn": architecture("gscnn", backbone="resnet14"),
    "deepmask": proposals("deepmask"),
    "sharpmask": proposals("sharpmask"),
    "keras-hub": preset,
    "ensemble": ensemble,
    "sam": anything,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("networks")


@cache
def spec_of(name: str, folder: Path) -> dict[str, Any]:
    library()
    import keras

    keras.utils.set_random_seed(5)
    return NETWORKS[name](folder)


MADE: dict[str, Any] = {}


@pytest.fixture(autouse=True, scope="module")
def _let_go() -> Iterator[None]:
    yield
    MADE.clear()


class OfNetworks(SegmenterTests):
    """Made once for all laws, and once more for those that ask for another: it takes seconds.

    The other is what a worker makes of options that travelled, so it is made again as well.
    """

    asks_for_another: ClassVar[bool] = False
    makes: ClassVar[int] = 1

    def create(self) -> Any:
        raise NotImplementedError

    def make(self) -> Any:
        made = self._other() if self.makes > 1 else self._once("made", self.create)
        self.makes += self.asks_for_another  # type: ignore[misc]
        return made

    def _once(self, what: str, create: Callable[[], Any]) -> Any:
        key = f"{type(self).__name__} {getattr(self, 'name', '')} {what}"
        if key not in MADE:
            MADE[key] = create()
        return MADE[key]

    def _other(self) -> Any:
        return self._made_anew(json.loads(json.dumps(dict(self.options))))

    def _made_anew(self, options: dict[str, Any]) -> Any:
        return self._once(
            f"of {json.dumps(options)}", lambda: super(OfNetworks, self)._made_anew(options)
        )

    def test_the_same_pixels_give_the_same_labels(self) -> None:
        self.asks_for_another = True  # type: ignore[misc]
        super().test_the_same_pixels_give_the_same_labels()
        assert self.makes == 3


@pytest.mark.parametrize("name", NETWORKS)
class TestNetworks(OfNetworks):
    size: ClassVar[tuple[int, int]] = (110, 90)
    sides: ClassVar[tuple[int, ...]] = (64,)
    tolerance: ClassVar[float] = 1e-5
    sent: ClassVar[bool] = False

    @pytest.fixture(autouse=True)
    def _network(self, name: str, folder: Path) -> None:
        self.name = name
        self.spec = spec_of(name, folder)
        self.options = {k: v for k, v in self.spec.items() if k != "kind"}  # type: ignore[misc]

    def create(self) -> Any:
        return create_segmenter(self.spec)

    def factory(self) -> Any:
        return registry.load("segmenters", self.name)


class TestCloudmask(OfNetworks):
    size: ClassVar[tuple[int, int]] = (300, 270)
    sides: ClassVar[tuple[int, ...]] = (200,)
    bands: ClassVar[int] = 4
    dtype: ClassVar[str] = "uint16"
    tolerance: ClassVar[float] = 1e-5
    sent: ClassVar[bool] = False
    options: ClassVar[dict[str, Any]] = {
        "level": "l1c",
        "bands": {name: i for i, name in enumerate(("blue", "green", "red", "nir"), 1)},
    }
    refused: ClassVar[dict[str, list[Any]]] = {"level": ["l3"]}

    def create(self) -> Any:
        return create_segmenter({"kind": "cloudmask", **self.options})

    def factory(self) -> Any:
        return registry.load("segmenters", "cloudmask")


class TestMaskRcnn(OfNetworks):
    size: ClassVar[tuple[int, int]] = (96, 80)
    sent: ClassVar[bool] = False

    @pytest.fixture(autouse=True)
    def _weights(self, folder: Path) -> None:
        self.options = {  # type: ignore[misc]
            "weights": mask_rcnn(folder),
            "backbone": "resnet14",
            "classes": ["background", "a", "b", "c"],
            **{"min_side": 64, "max_side": 64, "max_detections": 5, "min_score": 0.5},
        }

    def create(self) -> Any:
        return create_segmenter({"kind": "mask-rcnn", **self.options})

    def factory(self) -> Any:
        return registry.load("segmenters", "mask-rcnn")


@cache
def mask_rcnn(folder: Path) -> str:
    library()
    from segengine.models.maskrcnn import weights
    from segengine.models.maskrcnn.config import preset
    from segengine.models.maskrcnn.network import network

    config = preset("matterport", 4, "resnet14")
    slots = weights.slots(network(config), config)
    h5.write(folder / "small.h5", {s.key: draw_matterport(s.key, s.shape) for s in slots})
    return str(folder / "small.h5")


def test_their_windows_are_several() -> None:
    assert np.prod([-(-n // 64) for n in TestNetworks.size]) >= 4
