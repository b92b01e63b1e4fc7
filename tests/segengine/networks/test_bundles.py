"""What a bundle says, from a folder or a zip; whatever is wrong with one is one line."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segengine.networks.bundles import Bundle, is_bundle, opened, read

BUNDLE = Bundle(
    architecture="unet",
    options={"depth": 1},
    bands=2,
    classes=("a", "b"),
    colors=((1, 2, 3), (4, 5, 6)),
    scale={"divide": 255.0},
    activation="sigmoid",
    size=(None, 64),
    resize=True,
    job={"name": "test", "optimizer": {"rate": 0.1}},
    metrics={"val_loss": 0.5},
)


def write(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "bundle.json").write_text(text)
    (folder / "model.weights.h5").write_bytes(b"weights")
    return folder


def pack(path: Path, **members: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members.items():
            archive.writestr(name.replace("__", "/"), text)
    return path


def changed(**changes: Any) -> str:
    return json.dumps(json.loads(BUNDLE.to_json()) | changes)


def test_a_folder_and_a_zip_say_the_same(tmp_path: Path) -> None:
    folder = write(tmp_path / "in" / "tree", BUNDLE.to_json())
    members = {f"some__tree__{p.name}": p.read_text() for p in folder.iterdir()}
    packed = pack(tmp_path / "b.zip", **members, readme="anything")
    for path in (folder, packed):
        assert is_bundle(path)
        assert read(path) == BUNDLE
        with opened(path) as (about, weights):
            assert about == BUNDLE
            assert (weights.name, weights.read_bytes()) == ("model.weights.h5", b"weights")
    assert not weights.exists()  # what was unpacked is gone
    assert BUNDLE.outputs == 1


def test_what_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_text("no zip")
    pack(tmp_path / "other.zip", readme="")
    pack(tmp_path / "named.npz", **{"bundle.json": BUNDLE.to_json()})
    for name in ("nothing", ".", "text.zip", "other.zip", "named.npz"):
        assert not is_bundle(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"bundle\.json is damaged: Expecting"),
        ("[]", r"bundle\.json is damaged"),
        (changed(format=7), "format 7 is not known; this reads 1"),
        (changed(bands="many"), "is damaged: invalid literal"),
        (changed(classes="ab"), "is damaged: classes is no list"),
        (changed(size=[1, 2, 3]), "is damaged: too many values"),
        (json.dumps({"format": 1, "classes": []}), "is damaged: it has no 'architecture'"),
    ],
)
def test_damaged_metadata(text: str, message: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "b", text)
    packed = pack(tmp_path / "b.zip", **{"bundle.json": text, "model.weights.h5": ""})
    for path in (folder, packed):
        with pytest.raises(ValueError, match=message) as error:
            read(path)
        assert "\n" not in str(error.value)


def without_weights(path: Path) -> Path:
    return pack(path, **{"bundle.json": BUNDLE.to_json()})


def two_in_one(path: Path) -> Path:
    both = {f"{n}__bundle.json": BUNDLE.to_json() for n in "ab"}
    return pack(path, **both, **{"a__model.keras": ""})


def flipped(path: Path) -> Path:
    pack(path, **{"bundle.json": BUNDLE.to_json(), "model.keras": ""})
    data = path.read_bytes()
    at = data.index(b"unet")
    path.write_bytes(data[:at] + b"vnet" + data[at + 4 :])
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (without_weights, r"the bundle has no model\.weights\.h5"),
        (two_in_one, r"the zip has several bundle\.json; pack one bundle a zip"),
        (flipped, "the zip is damaged: Bad CRC-32"),
    ],
)
def test_damaged_zips(make: Callable[[Path], Path], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message), opened(make(tmp_path / "b.zip")):
        pass
