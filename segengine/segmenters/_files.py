"""From a path to an engine that runs it, and what the file says of itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import xxhash

from segengine.bundles import META, Bundle, is_bundle, opened
from segengine.engines import Engine, Precision

EngineName = Literal["tensorflow", "openvino", "onnxruntime"]

_REFUSED = {
    ".t7": "Torch7 files cannot be read safely; train the network again, or export it to ONNX where "
    "it still runs",
    ".pt": "PyTorch files are pickles, which can run any code; export it with `torch.onnx.export`",
    ".pkl": "a pickle can run any code; export the model to ONNX",
}
_REFUSED |= {".pth": _REFUSED[".pt"], ".ckpt": _REFUSED[".pt"], ".bin": _REFUSED[".pt"]}
_REFUSED |= {".pickle": _REFUSED[".pkl"], ".joblib": _REFUSED[".pkl"]}


@dataclass(frozen=True, slots=True)
class Opened:
    """An engine on a model, and what is known of the model."""

    engine: Engine
    context: tuple[int, int] | None = None
    """(halo, stride) of a network with a finite view."""
    ends_in: str | None = None
    """Activation of the last layer; None: not known."""
    bundle: Bundle | None = None


def digest(path: Path) -> str:
    """Of a file's bytes; of a folder's files with their names; of ONNX with weights kept beside it.

    Of a bundle, packed or not, only what the network is built from: its model card may change.
    """
    if is_bundle(path):
        with opened(path) as (_, weights):
            return digest_of([(META, weights.parent / META), (weights.name, weights)])
    if path.is_dir():
        files = [(p.relative_to(path).as_posix(), p) for p in path.rglob("*") if p.is_file()]
    elif path.suffix.lower() == ".onnx":  # m.onnx.data, m.onnx_data
        files = [(p.name[len(path.name) :], p) for p in path.parent.iterdir() if _belongs(p, path)]
    else:
        files = [("", path)]
    return digest_of(files)


def digest_of(files: Iterable[tuple[str, Path]]) -> str:
    """Of files under the names given, whatever their order."""
    state = xxhash.xxh3_128()
    for name, file in sorted(files):
        state.update(name.encode("utf-8", "surrogateescape"))
        with open(file, "rb") as stream:
            while block := stream.read(1 << 20):
                state.update(block)
    return state.hexdigest()


def _belongs(file: Path, model: Path) -> bool:
    return file.is_file() and file.name.startswith(model.name)


def open_model(
    path: Path,
    engine: EngineName | None,
    precision: Precision,
    architecture: str | None = None,
    bands: int | None = None,
    channels: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> Opened:
    """A model of any format that is read. Raises ValueError saying what is wrong with it.

    `architecture`, `bands`, `channels`, `options`: of a weights file, which says nothing of them.
    """
    if not path.exists():
        raise ValueError("there is no such file")
    suffix = path.suffix.lower()
    if suffix in _REFUSED:
        raise ValueError(_REFUSED[suffix])
    if is_bundle(path):
        return _bundled(path, engine, precision, architecture)
    if path.name.endswith(".weights.h5") or (suffix == ".h5" and architecture):
        if architecture is None or bands is None or channels is None:
            missing = "architecture" if architecture is None else "bands"
            missing = "classes" if missing == "bands" and bands is not None else missing
            raise ValueError(f"a weights file does not say its {missing}; set `{missing}`")
        from segengine.segmenters import _keras

        found = _keras.load_weights(
            path, architecture, bands, channels, (None, None), options or {}
        )
        return of_keras(found, engine, precision)
    if architecture is not None:
        raise ValueError("architecture belongs to a weights file, and this is a whole model")
    if suffix in (".keras", ".h5", ".hdf5"):
        from segengine.segmenters import _keras

        return of_keras(_keras.load_whole(path), engine, precision)
    if path.is_dir() and (path / "saved_model.pb").is_file():
        return _saved_model(path, engine, precision)
    if suffix == ".tflite":
        return _lite(path, engine, precision)
    if suffix == ".onnx":
        return _onnx(path, engine, precision)
    raise ValueError(
        "not a model of a known format; give .keras, .h5, .weights.h5, .tflite, .onnx, a SavedModel "
        "folder or a bundle of `segengine train`"
    )


def of_keras(
    model: Any,
    engine: EngineName | None,
    precision: Precision,
    bundle: Bundle | None = None,
) -> Opened:
    """An engine on a Keras model."""
    from segengine.engines import tensorflow
    from segengine.models._context import context
    from segengine.segmenters import _keras

    if engine == "onnxruntime":
        raise ValueError(
            "engine: onnxruntime reads .onnx; a Keras model runs on tensorflow or openvino"
        )
    view, ends_in = context(model), _keras.last_activation(model)
    if engine == "openvino":
        _needs("openvino")
        from segengine.engines import openvino

        return Opened(openvino.from_keras(model, precision), view, ends_in, bundle)
    return Opened(tensorflow.KerasEngine(model, precision), view, ends_in, bundle)


def _bundled(
    path: Path, engine: EngineName | None, precision: Precision, architecture: str | None
) -> Opened:
    bundle, model = open_bundle(path, architecture)
    return of_keras(model, engine, precision, bundle)


def open_bundle(path: Path, architecture: str | None) -> tuple[Bundle, Any]:
    """What a bundle says, and its `keras.Model`. Raises ValueError, also for another architecture's."""
    from segengine.segmenters import _keras

    with opened(path) as (bundle, file):
        if architecture not in (None, bundle.architecture):
            raise ValueError(f"the bundle is of a {bundle.architecture}, not of a {architecture}")
        if file.suffix == ".keras":
            return bundle, _keras.load_whole(file)
        options = {k: v for k, v in bundle.options.items() if k != "weights"}
        try:
            return bundle, _keras.load_weights(
                file, bundle.architecture, bundle.bands, bundle.outputs, bundle.size, options
            )
        except ValueError as error:
            raise ValueError(f"the bundle: {error}") from error


def _saved_model(path: Path, engine: EngineName | None, precision: Precision) -> Opened:
    from segengine.engines import tensorflow

    checked = tensorflow.SavedModelEngine(path)
    if engine == "openvino":
        return _openvino(path, precision)
    _plain(engine, "tensorflow", precision)
    return Opened(checked)


def _lite(path: Path, engine: EngineName | None, precision: Precision) -> Opened:
    from segengine.engines import tensorflow

    if engine == "openvino":
        return _openvino(path, precision)
    _plain(engine, "tensorflow", precision)
    return Opened(tensorflow.LiteEngine(path))


def _onnx(path: Path, engine: EngineName | None, precision: Precision) -> Opened:
    if engine == "openvino":
        return _openvino(path, precision)
    _plain(engine, "onnxruntime", precision)
    _needs("onnxruntime")
    from segengine.engines import onnxruntime

    return Opened(onnxruntime.OnnxEngine(path))


def _openvino(path: Path, precision: Precision) -> Opened:
    _needs("openvino")
    from segengine.engines import openvino

    return Opened(openvino.OpenVinoEngine(path, precision))


def _plain(engine: EngineName | None, own: EngineName, precision: Precision) -> None:
    if engine not in (None, own):
        raise ValueError(f"engine: {engine} does not read this file; {own} and openvino do")
    if precision != "float32":
        raise ValueError(
            f"precision: {own} runs this file as it is; use a Keras model or `engine: openvino` for "
            f"{precision}"
        )


def _needs(package: str) -> None:
    import importlib.util

    if importlib.util.find_spec(package) is None:
        raise ValueError(
            f"engine: {package} is not installed; `pip install segengine[{package}]` brings it"
        )


def check_choice(name: str, value: object, known: Any) -> None:
    """Raise ValueError where an option is none of a Literal's values."""
    if value not in get_args(known):
        raise ValueError(f"{name}: must be one of {', '.join(get_args(known))}, not {value!r}")
