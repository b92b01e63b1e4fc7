"""From a path to an engine that runs it, and what the file says of itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal, get_args

import xxhash

from segengine.engines import Engine, Precision
from segengine.guards import onnx
from segengine.guards import tensorflow as saved_models
from segengine.guards.copies import add, copied
from segengine.networks import ultralytics
from segengine.networks.bundles import META, Bundle, check_architecture, is_bundle, opened
from segengine.networks.trained import item_of, of_bundle, of_item, of_metadata
from segengine.types import Trained

EngineName = Literal["tensorflow", "openvino", "onnxruntime"]

_REFUSED = {
    ".t7": "Torch7 files cannot be read safely; train the network again, or export it to ONNX where "
    "it still runs",
    ".pt": "PyTorch files are pickles, which can run any code; export it with `torch.onnx.export`",
    ".pkl": "a pickle can run any code; export the model to ONNX",
}
_REFUSED |= {".pth": _REFUSED[".pt"], ".ckpt": _REFUSED[".pt"], ".bin": _REFUSED[".pt"]}
_REFUSED |= {".pickle": _REFUSED[".pkl"], ".joblib": _REFUSED[".pkl"]}
_UNKNOWN = (
    "not a model of a known format; give .keras, .h5, .weights.h5, .tflite, .onnx, a SavedModel "
    "folder or a bundle of `segengine train`"
)
_KEPT = (".weights.h5",)
"""Ends of names that say more than a suffix."""


@dataclass(frozen=True, slots=True)
class Opened:
    """An engine on a model, and what is known of the model."""

    engine: Engine
    context: tuple[int, int] | None = None
    """(halo, stride) of a network with a finite view."""
    ends_in: str | None = None
    """Activation that the output's values have been through, `linear` for none; None: not known."""
    bundle: Bundle | None = None
    digest: str = ""
    """Of the bytes that were loaded."""
    trained: Trained | None = None
    """What it says of the images that it learned from."""


@contextmanager
def private(path: Path) -> Iterator[Path]:
    """A copy of a model that nothing else can change, while the context lasts. Raises ValueError.

    It is the copy that is digested, checked and loaded. Of a folder, only the files of a SavedModel;
    of ONNX, the files that its tensors lie in as well.
    """
    name = path.name
    if path.is_dir():
        if not (path / saved_models.GRAPHS).is_file():
            raise ValueError(_UNKNOWN)
        with copied(saved_models.parts(path), path) as folder:
            yield folder
    elif path.suffix.lower() == ".onnx":
        with copied([(path, name)]) as folder:
            beside = [n for n in onnx.check(folder / name, path.parent) if n != name]
            add(folder, ((path.parent / n, n) for n in beside), path.parent)
            yield folder / name
    else:
        # Keras chooses by the suffix as it is written.
        kept = next((s for s in _KEPT if name.lower().endswith(s)), path.suffix.lower())
        with copied([(path, f"model{kept}")]) as folder:
            yield folder / f"model{kept}"


def digest(copy: Path) -> str:
    """Of a file's bytes; of a folder's files with their names; of ONNX with weights kept beside it."""
    if copy.is_dir():
        files = [(p.relative_to(copy).as_posix(), p) for p in copy.rglob("*") if p.is_file()]
    elif copy.suffix.lower() == ".onnx":
        inside = ((p.relative_to(copy.parent).as_posix(), p) for p in copy.parent.rglob("*"))
        files = [(n.removeprefix(copy.name), p) for n, p in inside if p.is_file()]
    else:
        files = [("", copy)]
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
    path, item, name = item_of(path)
    if item is not None:
        if not path.exists():
            raise ValueError(f"the item names {path.name} as its model, and there is no such file")
        return _told_by(
            of_item(item, name),
            open_file(path, engine, precision, architecture, bands, channels, options),
        )
    return open_file(path, engine, precision, architecture, bands, channels, options)


def _told_by(trained: Trained, opened: Opened) -> Opened:
    """With what an item beside the model says, which counts before what the model says."""
    own = opened.trained
    kept = {} if own is None else {f.name: getattr(own, f.name) for f in fields(own)}
    said = {f.name: getattr(trained, f.name) for f in fields(trained)}
    both = Trained(**{**kept, **{key: value for key, value in said.items() if value}})
    mark = xxhash.xxh3_128_hexdigest(f"{opened.digest} {replace(trained, by='')}".encode())
    return replace(opened, trained=both, digest=mark)


def open_file(
    path: Path,
    engine: EngineName | None,
    precision: Precision,
    architecture: str | None,
    bands: int | None,
    channels: int | None,
    options: Mapping[str, Any] | None,
) -> Opened:
    """As `open_model`, of what lies in the file itself."""
    suffix = path.suffix.lower()
    if suffix in _REFUSED:
        raise ValueError(_REFUSED[suffix])
    if is_bundle(path):
        bundle, model, found = open_bundle(path, architecture)
        trained = of_bundle(bundle)
        return replace(of_keras(model, engine, precision, bundle), digest=found, trained=trained)
    with private(path) as copy:
        try:
            opened = _open(copy, engine, precision, architecture, bands, channels, options)
        except ValueError as error:
            raise ValueError(str(error).replace(str(copy), path.name)) from error
        said = onnx.metadata(copy) if suffix == ".onnx" else {}
        told = of_metadata(said) or ultralytics.of_metadata(said)
        return replace(opened, digest=digest(copy), trained=told)


def _open(
    path: Path,
    engine: EngineName | None,
    precision: Precision,
    architecture: str | None,
    bands: int | None,
    channels: int | None,
    options: Mapping[str, Any] | None,
) -> Opened:
    suffix = path.suffix
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
    if path.is_dir():
        return _saved_model(path, engine, precision)
    if suffix == ".tflite":
        return _lite(path, engine, precision)
    if suffix.lower() == ".onnx":
        return _onnx(path, engine, precision)
    raise ValueError(_UNKNOWN)


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
        needs("openvino")
        from segengine.engines import openvino

        return Opened(openvino.from_keras(model, precision), view, ends_in, bundle)
    return Opened(tensorflow.KerasEngine(model, precision), view, ends_in, bundle)


def open_bundle(path: Path, architecture: str | None) -> tuple[Bundle, Any, str]:
    """What a bundle says, its `keras.Model`, and the digest of both, without its model card.

    Raises ValueError, also for another architecture's.
    """
    with opened(path) as (bundle, file):
        check_architecture(bundle, architecture)
        found = digest_of([(META, file.parent / META), (file.name, file)])
        return bundle, _of_bundle(bundle, file, architecture), found


def _of_bundle(bundle: Bundle, file: Path, architecture: str | None) -> Any:
    from segengine.segmenters import _keras

    if architecture not in (None, bundle.architecture):
        raise ValueError(f"the bundle is of a {bundle.architecture}, not of a {architecture}")
    if file.suffix == ".keras":
        return _keras.load_whole(file)
    try:
        return _keras.load_weights(
            file,
            bundle.architecture,
            bundle.bands,
            bundle.outputs,
            bundle.size,
            bundle.shaping,
        )
    except ValueError as error:
        raise ValueError(f"the bundle: {error}") from error


def _saved_model(path: Path, engine: EngineName | None, precision: Precision) -> Opened:
    from segengine.engines import tensorflow

    checked = tensorflow.SavedModelEngine(path)
    if engine == "openvino":
        return replace(_openvino(path, precision), ends_in=checked.ending)
    _plain(engine, "tensorflow", precision)
    return _of(checked)


def _lite(path: Path, engine: EngineName | None, precision: Precision) -> Opened:
    from segengine.engines import tensorflow

    if engine == "openvino":
        return _openvino(path, precision)
    _plain(engine, "tensorflow", precision)
    return _of(tensorflow.LiteEngine(path))


def _onnx(path: Path, engine: EngineName | None, precision: Precision) -> Opened:
    if engine == "openvino":
        return _openvino(path, precision)
    _plain(engine, "onnxruntime", precision)
    needs("onnxruntime")
    from segengine.engines import onnxruntime

    return _of(onnxruntime.OnnxEngine(path))


def _openvino(path: Path, precision: Precision) -> Opened:
    needs("openvino")
    from segengine.engines import openvino

    return _of(openvino.OpenVinoEngine(path, precision))


def _of(engine: Engine) -> Opened:
    return Opened(engine, ends_in=engine.ending)


def _plain(engine: EngineName | None, own: EngineName, precision: Precision) -> None:
    if engine not in (None, own):
        raise ValueError(f"engine: {engine} does not read this file; {own} and openvino do")
    if precision != "float32":
        raise ValueError(
            f"precision: {own} runs this file as it is; use a Keras model or `engine: openvino` for "
            f"{precision}"
        )


def digest_of_texts(*texts: str) -> str:
    """Of digests and what else decides, in their order."""
    return xxhash.xxh3_128_hexdigest("\n".join(texts).encode())


def needs(package: str) -> None:
    """Raise ValueError where an engine's package is not installed."""
    import importlib.util

    if importlib.util.find_spec(package) is None:
        raise ValueError(
            f"engine: {package} is not installed; `pip install segengine[{package}]` brings it"
        )


def path_of(name: str, value: object) -> Path:
    """An option as a path: a job may have a number there. Raises ValueError naming the option."""
    if not isinstance(value, str | PathLike):
        raise ValueError(f"{name}: must be a path, not {value!r}")
    return Path(value)


def check_choice(name: str, value: object, known: Any) -> None:
    """Raise ValueError where an option is none of a Literal's values."""
    if value not in get_args(known):
        raise ValueError(f"{name}: must be one of {', '.join(get_args(known))}, not {value!r}")
