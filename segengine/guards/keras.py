"""Keras' files: the container that Keras will open, and each class that its configuration names.

A `.keras` is a zip with a configuration and an HDF5 file, a `.h5` an HDF5 file with the configuration
as an attribute. Which one Keras opens follows from the suffix, so that suffix and content must agree.
A configuration names classes, by the module they lie in; Keras looks them up and calls them. Only
those named here pass: layers and operations on tensors, and what they are made of.
"""

from __future__ import annotations

import json
import re
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from segengine.guards import hdf5, texts, words, zips

CONFIG, WEIGHTS = "config.json", "model.weights.h5"
_MEMBERS = ("metadata.json", CONFIG, WEIGHTS)

_CODE = words("""
    Lambda TFSMLayer TorchModuleWrapper JaxLayer FlaxLayer TFOpLambda SlicingOpLambda __lambda__
""")
"""What holds code, or the path of it."""
_LAYERS = """
    Activation ActivityRegularization AdaptiveAveragePooling1D AdaptiveAveragePooling2D
    AdaptiveAveragePooling3D AdaptiveMaxPooling1D AdaptiveMaxPooling2D AdaptiveMaxPooling3D Add
    AdditiveAttention AlphaDropout Attention Average AveragePooling1D AveragePooling2D AveragePooling3D
    BatchNormalization Bidirectional CenterCrop Concatenate Conv1D Conv1DTranspose Conv2D
    Conv2DTranspose Conv3D Conv3DTranspose ConvLSTM1D ConvLSTM2D ConvLSTM3D Cropping1D Cropping2D
    Cropping3D Dense DepthwiseConv1D DepthwiseConv2D Dot Dropout ELU EinsumDense Embedding Flatten GRU
    GRUCell GaussianDropout GaussianNoise GlobalAveragePooling1D GlobalAveragePooling2D
    GlobalAveragePooling3D GlobalMaxPooling1D GlobalMaxPooling2D GlobalMaxPooling3D
    GroupNormalization GroupQueryAttention Identity InputLayer LSTM LSTMCell LayerNormalization
    LeakyReLU Masking MaxPooling1D MaxPooling2D MaxPooling3D Maximum Minimum MultiHeadAttention
    Multiply Normalization PReLU Permute RMSNormalization RNN RandomBrightness RandomContrast
    RandomCrop RandomFlip RandomRotation RandomTranslation RandomZoom ReLU RepeatVector Rescaling
    Reshape Resizing ReversibleEmbedding SeparableConv1D SeparableConv2D SimpleRNN SimpleRNNCell
    Softmax SpatialDropout1D SpatialDropout2D SpatialDropout3D SpectralNormalization StackedRNNCells
    Subtract TimeDistributed UnitNormalization UpSampling1D UpSampling2D UpSampling3D ZeroPadding1D
    ZeroPadding2D ZeroPadding3D
"""
_INITIALIZERS = """
    Constant GlorotNormal GlorotUniform HeNormal HeUniform Identity IdentityInitializer LecunNormal
    LecunUniform Ones Orthogonal OrthogonalInitializer RandomNormal RandomUniform TruncatedNormal
    VarianceScaling Zeros
"""
_NAMES: Mapping[str, str] = {
    "keras": "Functional Sequential Model DTypePolicy DTypePolicyMap Variable",
    "keras.models": "Functional Sequential Model",
    "keras.src.models.functional": "Functional",
    "keras.src.models.sequential": "Sequential",
    "keras.src.models.model": "Model",
    "keras.layers": _LAYERS,
    "keras.initializers": _INITIALIZERS,
    "keras.regularizers": "L1 L1L2 L2 OrthogonalRegularizer",
    "keras.constraints": "MaxNorm MinMaxNorm NonNeg UnitNorm",
    "keras.dtype_policies": "DTypePolicy DTypePolicyMap FloatDTypePolicy",
    "keras.mixed_precision": "Policy",
    "keras.random": "SeedGenerator",
    "keras.src.random.seed_generator": "SeedGenerator",
    "keras.src.applications.convnext": "LayerScale",
}
"""Classes by the module that a configuration names."""
_KNOWN = {module: frozenset(names.split()) for module, names in _NAMES.items()}
_ANYWHERE = frozenset().union(*_KNOWN.values()) - {"Variable"}
"""Classes that older files name without a module."""
_OPERATIONS = tuple(f"keras.src.ops.{name}" for name in ("numpy", "nn", "image", "math", "linalg"))
"""Modules of which any operation passes: all compute, on tensors alone."""
_CORE = words("Cast ConvertToTensor SaturateCast Slice SliceUpdate StopGradient Unstack")
"""Of Keras' core operations; the others take functions."""
_VALUES = words("""
    __keras_tensor__ __tensor__ __numpy__ __tuple__ __ellipsis__ __slice__ __bytes__ TensorShape
""")
"""Values that JSON has no words for."""
_ACTIVATIONS = words("""
    celu elu exponential gelu glu hard_shrink hard_sigmoid hard_silu hard_swish hard_tanh leaky_relu
    linear log_sigmoid log_softmax mish relu relu6 selu sigmoid silu soft_shrink softmax softplus
    softsign sparse_plus sparse_sigmoid sparsemax squareplus swish tanh tanh_shrink threshold
    """)
_FUNCTIONS = ("builtins", "keras.activations", "keras.src.activations.activations")
_SHARD = re.compile(r"[\w-][\w.-]*\.weights\.h5")
_PACKAGES = ("segengine",)
"""Whose registered classes pass."""


def check_model(path: Path, folder: Path) -> None:
    """A whole model as `.keras` or `.h5`. Raises ValueError.

    folder: a private one, for the weights of a zip.
    """
    if path.suffix.lower() == ".keras":
        _zipped(path, folder)
    else:
        check_hdf5(path)
        _check_top(_attribute(path), _PACKAGES)


def check_weights(path: Path) -> None:
    """A file of weights alone, `.weights.h5` or `.h5`, or those of a `.keras`. Raises ValueError."""
    if path.suffix.lower() == ".keras":
        with tempfile.TemporaryDirectory(prefix="segengine-") as folder:
            _zipped(path, Path(folder))
    else:
        check_hdf5(path)


def check_hdf5(path: Path) -> None:
    """An HDF5 file that is nothing else as well. Raises ValueError."""
    with open(path, "rb") as file:
        start = file.read(len(hdf5.MAGIC))
    if start != hdf5.MAGIC:
        _mismatch(path, start)
    if zipfile.is_zipfile(path):
        raise ValueError(
            f"its suffix is {path.suffix} and it is a zip as well, which is refused; save it again"
        )
    hdf5.check(path)


def check_text(text: bytes, name: str, packages: tuple[str, ...] = _PACKAGES) -> None:
    """A configuration by itself, of registered classes of some packages. Raises ValueError."""
    _check_top(texts.parse(text, name), packages)


def check_shards(path: Path) -> None:
    """A `.weights.json`, which names the files of weights beside it. Raises ValueError."""
    with open(path, "rb") as file:
        found = _parsed(file.read(texts.MOST + 1), path.name)
    for node in _nodes(found.get("weight_map") if isinstance(found, dict) else found):
        for names in node.values():
            for name in names if isinstance(names, list) else [names]:
                if not isinstance(name, str) or not _SHARD.fullmatch(name):
                    raise ValueError(f"{path.name} names {zips.shown(str(name))}, which is refused")


def _zipped(path: Path, folder: Path) -> None:
    with open(path, "rb") as file:
        start = file.read(len(hdf5.MAGIC))
        if not start.startswith(zips.MAGIC):
            _mismatch(path, start)
        try:
            about = {entry.filename: entry for entry in zips.check(file, only=_MEMBERS)}
        except ValueError as error:
            raise ValueError(f"not a Keras model that loads: {error}") from error
        if CONFIG not in about:
            raise ValueError(f"not a Keras model that loads: it has no {CONFIG}")
        if about[CONFIG].file_size > texts.MOST:
            raise ValueError(f"{CONFIG} is larger than {texts.MOST >> 20} MiB and is refused")
        try:
            with zipfile.ZipFile(file) as archive:
                # Before the weights, so that what a model is refused for is what it would run.
                _check_top(_parsed(archive.read(CONFIG), CONFIG), _PACKAGES)
                if WEIGHTS not in about:
                    raise ValueError(f"not a Keras model that loads: it has no {WEIGHTS}")
                weights = Path(archive.extract(WEIGHTS, folder / "weights"))
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise ValueError(
                f"not a Keras model that loads: the zip is damaged: {error}"
            ) from error
    check_hdf5(weights)


def _attribute(path: Path) -> Any:
    import h5py

    with h5py.File(path, "r") as file:
        if "model_config" not in file.attrs:
            raise ValueError(
                "the file holds weights without a model; name the architecture they belong to, as in "
                "`architecture: unet`, and end its name in .weights.h5"
            )
        text = file.attrs["model_config"]
    if not isinstance(text, str | bytes):
        raise ValueError("not a Keras model that loads: its model_config is no text")
    return _parsed(text, "model_config")


def _parsed(text: str | bytes, name: str) -> Any:
    try:
        return texts.parse(text, name)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"not a Keras model that loads: {name}: {error}") from error


def _mismatch(path: Path, start: bytes) -> None:
    known = {b"PK\x03\x04": "a zip", hdf5.MAGIC[:4]: "an HDF5 file"}
    found = known.get(start[:4])
    if found is None:
        raise ValueError(
            f"not a Keras model that loads: it is neither HDF5 nor a zip (suffix {path.suffix})"
        )
    raise ValueError(f"its suffix is {path.suffix} and it is {found}, which is refused; rename it")


def _check_top(config: Any, packages: tuple[str, ...]) -> None:
    """What training left of a whole model is never built, so that it is not looked at."""
    if isinstance(config, dict):
        config = {key: value for key, value in config.items() if key != "compile_config"}
    for node in _nodes(config):
        if node.get("compile_config"):
            raise ValueError(
                "it holds a model in the model that was compiled, which is refused; save it with "
                "`compile=False`"
            )
        if "class_name" in node:
            _check_object(node, packages)


def _nodes(value: Any) -> Iterator[Mapping[str, Any]]:
    """Every object of a JSON value, the outer ones first; without recursion."""
    left = [value]
    while left:
        node = left.pop()
        if isinstance(node, dict):
            yield node
            left += reversed(node.values())
        elif isinstance(node, list):
            left += reversed(node)


def _check_object(node: Mapping[str, Any], packages: tuple[str, ...]) -> None:
    name, module, registered = (node.get(k) for k in ("class_name", "module", "registered_name"))
    if not isinstance(name, str) or not isinstance(module, str | None):
        raise ValueError("its configuration has a class_name or module that is no text")
    last = name.rpartition(">")[2]
    if last in _CODE:
        raise ValueError(
            f"it holds a {last} layer, which is code and is refused; rebuild the model with layers "
            "of Keras, or export it to ONNX"
        )
    if not isinstance(registered, str | None):
        raise ValueError("its configuration has a registered_name that is no text")
    if name == "function":
        if module not in _FUNCTIONS or node.get("config") not in _ACTIVATIONS:
            raise _refused(f"{module}.{node.get('config')}")
        if registered not in (None, "function", node.get("config")):
            raise _refused(registered)
        return
    if name in _VALUES and module in (None, "builtins"):
        return
    if _is_registered(name, registered, packages):
        return
    if registered not in (None, name):
        raise _refused(registered)
    if module is None:
        if name not in _ANYWHERE:
            raise _refused(name)
    elif not _is_known(module, name):
        raise _refused(f"{module}.{name}")


def _is_registered(name: str, registered: str | None, packages: tuple[str, ...]) -> bool:
    """True for a class that a package of ours has registered: Keras finds it by that name alone."""
    told = name if registered is None or ">" in name else registered
    package, mark, own = told.partition(">")
    if not mark or package not in packages or own != name.rpartition(">")[2]:
        return False
    import keras

    found = keras.saving.get_registered_object(told)
    home = getattr(found, "__module__", "")
    return isinstance(found, type) and home.partition(".")[0] == package


def _is_known(module: str, name: str) -> bool:
    if name in _KNOWN.get(module, ()):
        return True
    if module == "keras.src.ops.core":
        return name in _CORE
    if module not in _OPERATIONS:
        return False
    import importlib

    import keras

    found = getattr(importlib.import_module(module), name, None)
    own = getattr(found, "__module__", None) == module
    return own and isinstance(found, type) and issubclass(found, keras.Operation)


def _refused(name: object) -> ValueError:
    return ValueError(
        f"its configuration names {zips.shown(str(name))}, which is none of the classes that are "
        "allowed"
    )
