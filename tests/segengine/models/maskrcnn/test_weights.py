"""Weight files: every tensor by name, and what does not fit is named."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segengine.models._torchfile import read_torch
from segengine.models.mask_rcnn import build
from segengine.models.maskrcnn import weights
from segengine.models.maskrcnn.config import preset

from . import h5
from .test_choosing import SMALL

HERE = Path(__file__).parent / "fixtures"
CONFIG = preset("matterport", **SMALL)


@pytest.fixture(scope="module")
def model() -> Any:
    return build(preset="matterport", **SMALL)


def tensors(model: Any) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {slot.key: rng.random(slot.shape, np.float32) for slot in weights.slots(model, CONFIG)}


@pytest.mark.parametrize("root", ["/", "/model_weights"])
def test_both_roots_of_an_h5_file_are_read(model: Any, tmp_path: Path, root: str) -> None:
    given = tensors(model)
    h5.write(tmp_path / "w.h5", given, root)
    weights.load(model, CONFIG, tmp_path / "w.h5")
    for slot in weights.slots(model, CONFIG):
        np.testing.assert_array_equal(slot.variable, given[slot.key])


def missing(given: dict[str, np.ndarray]) -> str:
    del given["rpn_conv_shared/bias"]
    return "rpn_conv_shared/bias is missing"


def extra(given: dict[str, np.ndarray]) -> str:
    given["res6a_branch1/kernel"] = np.zeros(3, np.float32)
    return "res6a_branch1/kernel is of no layer"


def misshaped(given: dict[str, np.ndarray]) -> str:
    given["mrcnn_class_logits/kernel"] = np.zeros((32, 81), np.float32)
    return r"mrcnn_class_logits/kernel has shape \(32, 81\), not \(32, 5\)"


def not_a_number(given: dict[str, np.ndarray]) -> str:
    given["conv1/kernel"][0, 0, 0, 0] = np.nan
    return "conv1/kernel holds NaN or infinity"


@pytest.mark.parametrize("spoil", [missing, extra, misshaped, not_a_number])
def test_a_tensor_that_does_not_fit_is_named_and_nothing_is_loaded(
    model: Any, tmp_path: Path, spoil: Callable[[dict[str, np.ndarray]], str]
) -> None:
    given = tensors(model)
    before = [v.value.numpy() for v in model.weights]
    given = {key: value + 1 for key, value in given.items()}
    message = spoil(given)
    h5.write(tmp_path / "w.h5", given)
    with pytest.raises(ValueError, match=message):
        weights.load(model, CONFIG, tmp_path / "w.h5")
    assert all((a == b.value.numpy()).all() for a, b in zip(before, model.weights, strict=True))


def test_weights_for_other_classes_fill_all_but_the_last_layers(model: Any, tmp_path: Path) -> None:
    given = tensors(model)
    shapes = {
        "mrcnn_class_logits": (7, -1),
        "mrcnn_bbox_fc": (28, -1),
        "mrcnn_mask": (7, -1),
    }
    for layer, (outputs, axis) in shapes.items():
        kernel = given[f"{layer}/kernel"]
        given[f"{layer}/kernel"] = np.zeros((*kernel.shape[:axis], outputs), np.float32)
        given[f"{layer}/bias"] = np.zeros(outputs, np.float32)
    h5.write(tmp_path / "w.h5", given)
    with pytest.raises(ValueError, match="mrcnn_class_logits/kernel has shape"):
        weights.load(model, CONFIG, tmp_path / "w.h5")
    assert weights.load(model, CONFIG, tmp_path / "w.h5", other_classes=True) == 6
    for slot in weights.slots(model, CONFIG):
        if slot.key.partition("/")[0] not in shapes:
            np.testing.assert_array_equal(slot.variable, given[slot.key])
    given["mrcnn_mask_conv1/bias"] = np.zeros(3, np.float32)
    h5.write(tmp_path / "w.h5", given)
    with pytest.raises(ValueError, match="mrcnn_mask_conv1/bias has shape"):
        weights.load(model, CONFIG, tmp_path / "w.h5", other_classes=True)


def test_a_file_of_the_other_preset_is_refused(model: Any) -> None:
    with pytest.raises(ValueError, match=r"new.pth: preset matterport reads .h5"):
        weights.load(model, CONFIG, HERE / "new.pth")


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # Keras on NumPy 2
def test_what_save_weights_wrote_is_read(model: Any, tmp_path: Path) -> None:
    path = tmp_path / "own.weights.h5"
    model.save_weights(path)
    again = build(preset="matterport", weights=str(path), **SMALL)
    assert all(
        (a.value.numpy() == b.value.numpy()).all()
        for a, b in zip(model.weights, again.weights, strict=True)
    )


@pytest.mark.parametrize("name", ["new.pth", "old.pth"])
def test_both_formats_of_torch_are_read(name: str) -> None:
    found = read_torch(HERE / name)
    wanted = np.load(HERE / "state.npz")
    assert found.keys() == set(wanted.files)
    for key in wanted.files:
        assert found[key].dtype == wanted[key].dtype
        np.testing.assert_array_equal(found[key], wanted[key])


def rewritten(path: Path, change: Callable[[bytes], bytes]) -> Path:
    """The zip file with another pickle."""
    with zipfile.ZipFile(HERE / "new.pth") as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, change(data) if name.endswith("data.pkl") else data)
    return path


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"cos\nsystem\n(S'touch x'\ntR.", "names os.system"),
        (b"\x80\x02cbuiltins\neval\nX\x01\x00\x00\x001\x85R.", "names builtins.eval"),
        (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "opcode NEWOBJ"),
        (b"\x80\x02]ctorch\nFloatStorage\n)R.", "calls torch.FloatStorage"),
        (b"\x80\x02K\x01.", "a int, not a dict"),
        (b"\x80\x02}X\x01\x00\x00\x00aK\x01s.", "a is a int, not a tensor"),
    ],
)
def test_a_pickle_that_does_more_than_hold_tensors_is_refused(
    tmp_path: Path, payload: bytes, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read_torch(rewritten(tmp_path / "bad.pth", lambda _: payload))


def test_a_tensor_beyond_its_storage_is_refused(tmp_path: Path) -> None:
    # the shape (4, 6) of the first tensor made (200, 6)
    wide = rewritten(
        tmp_path / "bad.pth", lambda data: data.replace(b"K\x04K\x06", b"K\xc8K\x06", 1)
    )
    with pytest.raises(ValueError, match=r"shape \(200, 6\) goes beyond its storage"):
        read_torch(wide)


def test_old_names_of_torchvision_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    old = ["rpn.head.conv.bias", "backbone.fpn.layer_blocks.3.weight"]
    old += ["roi_heads.mask_head.mask_fcn4.bias", "bn1.num_batches_tracked"]
    monkeypatch.setattr(weights, "read_state", lambda _: {key: np.zeros(1) for key in old})
    assert list(weights.read(Path("x.pth"))) == [
        "rpn.head.conv.0.0.bias",
        "backbone.fpn.layer_blocks.3.0.weight",
        "roi_heads.mask_head.3.0.bias",
    ]


@pytest.mark.parametrize("suffix", [".h5", ".pth", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"nothing of the kind", struct.pack("<q", 2**62)])
def test_a_file_of_something_else_is_named(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"x\{suffix}"):
        weights.read(path)


def test_a_damaged_file_of_a_bundle_is_one_line(model: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.weights.h5"
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"^weights: .*cannot be loaded: ") as caught:
        weights.load(model, CONFIG, path)
    assert "\n" not in str(caught.value)
    model.weights[0].assign(np.full(model.weights[0].shape, np.inf))
    model.save_weights(path)
    with pytest.raises(ValueError, match=r"conv1/kernel holds NaN or infinity$"):
        weights.load(model, CONFIG, path)
