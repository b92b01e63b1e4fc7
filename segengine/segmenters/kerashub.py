"""Semantic models of keras-hub with the weights that come with them: DeepLabV3+, SegFormer.

Home: https://keras.io/keras_hub
Licence: Apache-2.0

`pip install segengine[keras-hub]`. A preset is a folder of configurations and weights, by the name
keras-hub knows it under, or on disk as `save_to_preset` writes it. They are not the networks of the
papers (those are `deeplab` and others here), but their weights are real. What is read is checked
first: nothing but classes of Keras and keras-hub is built from it, no pickle and no Lambda.

keras-hub resizes and crops an image to the size it trained on; here windows of that size stand on
the frame as it is, and fade into one another. `resize` gives the former, for whole frames.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from segengine.engines import Precision, reason
from segengine.engines.tensorflow import library
from segengine.guards import keras as guard
from segengine.guards.copies import copied
from segengine.segmenters import _files
from segengine.segmenters._augment import Augment, Augmented, augmented
from segengine.segmenters._files import EngineName, check_choice, path_of
from segengine.segmenters._keras import checked
from segengine.segmenters._network import Activation, Network
from segengine.segmenters.model import WINDOW, Auto, check_options, network

CONFIG = "config.json"
TASK = "task.json"
_READ = (CONFIG, TASK, "preprocessor.json", "image_converter.json")
"""What classes are built from."""
_TRUSTED = ("keras_hub", "segengine")
"""Packages whose registered classes are built, beside those of Keras."""
_ABOUT = "metadata.json"
_INCOMPLETE = "there is no {}; `save_to_preset` of an image segmenter writes it"
_KAGGLE = "kaggle://"


def create(
    preset: str | None = None,
    path: str | None = None,
    bands: Sequence[int] | int | None = None,
    scale: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    activation: Activation | None = None,
    window: int | Auto = "auto",
    overlap: float = 0.5,
    batch: int | Auto = "auto",
    engine: EngineName | None = None,
    precision: Precision = "float32",
    threshold: float = 0.5,
    resize: Sequence[int] | None = None,
    crf: bool | Mapping[str, Any] = False,
    temperature: float | Mapping[str, float] | None = None,
    augment: Augment | None = None,
) -> Network | Augmented:
    """A preset of keras-hub as a segmenter.

    preset: a name, as deeplab_v3_plus_resnet50_pascalvoc or segformer_b0_ade20k_512, or a handle
    kaggle://...; fetched once. path: a preset's folder instead. classes: a name a channel; presets
    do not say theirs. scale: instead of the preset's own. window: side in pixels; auto: what the
    preset resizes to. The others as for `model`.
    """
    if (preset is None) == (path is None):
        raise ValueError("preset: give a preset's name, or its folder as `path`")
    check_options(bands, classes, window, overlap, batch, threshold, resize)
    for name, value, known in (
        ("activation", activation, Activation),
        ("engine", engine, EngineName),
        ("precision", precision, Precision),
    ):
        if value is not None:
            check_choice(name, value, known)
    option = "preset" if path is None else "path"
    if importlib.util.find_spec("keras_hub") is None:
        raise ValueError(
            f"{option}: needs keras-hub, which is not installed; `pip install segengine[keras-hub]`"
        )
    given = preset if path is None else path
    try:
        source = _fetched(str(preset)) if path is None else path_of("path", path)
        # A cache keeps a preset's files as links, so that they may lead out of the folder.
        with copied((p, p.name) for p in _taken(source)) as folder:
            digest = _files.digest_of((p.name, p) for p in _parts(folder))
            task = _task(folder)
        converter = getattr(task.preprocessor, "image_converter", None)
        size = _size(task, converter, window, resize)
        model = _model(task, size)
        if window != "auto" or resize is not None:
            _check_size(model)
        opened = _files.of_keras(model, engine, precision)
        found = network(
            replace(opened, ends_in=_activation(task)),
            digest,
            bands=bands,
            scale=_scale(converter) if scale is None else scale,
            classes=classes,
            activation=activation,
            layout="nhwc",
            window=window,
            overlap=overlap,
            batch=batch,
            threshold=threshold,
            resize=resize,
            crf=crf,
            temperature=temperature,
        )
        return augmented(found, augment)
    except OSError as error:
        raise ValueError(f"{option}: {given}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        if str(error).partition(":")[0].partition(".")[0] in create.__annotations__:
            raise
        raise ValueError(f"{option}: {given}: {error}") from error


def _fetched(preset: str) -> Path:
    """The folder of a preset by name, from the cache or the Internet."""
    library()
    import kagglehub
    import keras_hub

    known = keras_hub.models.ImageSegmenter.presets
    handle = known[preset]["kaggle_handle"] if preset in known else preset
    if not handle.startswith(_KAGGLE):
        names = ", ".join(sorted(n for n in known if not n.startswith("sam")))
        raise ValueError(f"not a preset of keras-hub {keras_hub.__version__}; it has {names}")
    try:
        return Path(kagglehub.model_download(handle.removeprefix(_KAGGLE)))
    except Exception as error:
        raise ValueError(
            f"cannot be fetched: {reason(error)}; fetch it once where the Internet is reachable, or "
            "name its folder as `path`"
        ) from error


def _task(folder: Path) -> Any:
    """The `keras_hub.models.ImageSegmenter` in a folder."""
    library()
    import keras_hub

    for file in _parts(folder):
        if file.suffix == ".h5":
            _check_weights(file)
        elif file.name in _READ:
            _check(file.name, file.read_bytes())
        else:
            guard.check_shards(file)
    for name in (CONFIG, TASK):
        if not (folder / name).is_file():
            raise ValueError(_INCOMPLETE.format(name))
    try:
        task = keras_hub.models.ImageSegmenter.from_preset(str(folder))
    except Exception as error:
        raise ValueError(f"not a preset that loads: {reason(error)}") from error
    if not isinstance(task, keras_hub.models.ImageSegmenter):
        raise ValueError(f"a {type(task).__name__} is no image segmenter")
    return task


def _check(name: str, text: bytes) -> None:
    """Raise ValueError where a configuration names classes that are not trusted."""
    try:
        guard.check_text(text, name, _TRUSTED)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{name} is damaged: {reason(error)}") from error
    except ValueError as error:
        told = str(error) if name in str(error) else f"{name}: {reason(error)}"
        raise ValueError(told) from error


def _check_weights(file: Path) -> None:
    try:
        guard.check_hdf5(file)
    except ValueError as error:
        raise ValueError(f"not a preset that loads: {file.name}: {error}") from error


def _taken(folder: Path) -> Iterator[Path]:
    """The files that a preset is read from."""
    if not folder.is_dir():
        raise ValueError(_INCOMPLETE.format(CONFIG))
    yield from _parts(folder)
    if (folder / _ABOUT).is_file():
        yield folder / _ABOUT


def _parts(folder: Path) -> Iterator[Path]:
    """The files that decide what it labels."""
    for file in folder.iterdir():
        if file.name in _READ or file.name.endswith((".weights.h5", ".weights.json")):
            yield file


def _model(task: Any, size: tuple[int, int]) -> Any:
    """The network alone: one image of a size in, values at that size out."""
    import keras

    from segengine.models.layers import ResizeLike

    image = keras.Input((*size, _input(task).shape[3]))
    try:
        output = keras.tree.flatten(task(image, training=False))[0]
    except Exception as error:
        raise ValueError(f"it does not take windows of {size}: {reason(error)}") from error
    if output.shape[1:3] != size:
        output = ResizeLike()([output, image])
    return checked(keras.Model(image, output))


def _check_size(model: Any) -> None:
    """Raise ValueError where a size that was asked for is none of the network's: it is traced."""
    tf = library()
    try:
        tf.function(model, autograph=False).get_concrete_function(tf.TensorSpec(model.input.shape))
    except Exception as error:
        raise ValueError(
            f"it does not take windows of {model.input.shape[1:3]}: {reason(error)}; give multiples "
            "of its strides, as 512"
        ) from error


def _activation(task: Any) -> str:
    """What its values have been through."""
    import keras

    return str(keras.activations.get(getattr(task, "activation", None)).__name__)


def _input(task: Any) -> Any:
    """The symbolic image. Raises ValueError where it takes more (prompts)."""
    if isinstance(task.input, Mapping | Sequence):
        raise ValueError(f"a {type(task).__name__} takes more than an image")
    return task.input


def _scale(converter: Any) -> dict[str, Any]:
    """x * scale + offset, as (x - mean) / std."""
    scale = getattr(converter, "scale", None)
    offset = getattr(converter, "offset", None)
    scales = _list(1.0 if scale is None else scale)
    offsets = _list(0.0 if offset is None else offset)
    count = max(len(scales), len(offsets))
    scales, offsets = (v * count if len(v) == 1 else v for v in (scales, offsets))
    return {
        "mean": [-o / s for s, o in zip(scales, offsets, strict=True)],
        "std": [1 / s for s in scales],
    }


def _list(value: Any) -> list[float]:
    return [float(v) for v in value] if isinstance(value, Sequence) else [float(value)]


def _size(
    task: Any, converter: Any, window: int | Auto, resize: Sequence[int] | None
) -> tuple[int, int]:
    """(height, width) of what it is fed: only multiples of its own strides do."""
    if resize is not None:
        return int(resize[0]), int(resize[1])
    if isinstance(window, int):
        return window, window
    trained = getattr(converter, "image_size", None) or (WINDOW, WINDOW)
    height, width = (own or n for own, n in zip(_input(task).shape[1:3], trained, strict=True))
    return height, width
