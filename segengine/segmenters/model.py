"""Any trained network, by path: Keras, SavedModel, TFLite, ONNX, or a bundle of `segengine train`.

| trained with                    | give as `path`                                   |
| ------------------------------- | ------------------------------------------------ |
| `segengine train`               | its bundle, a folder or a zip of it              |
| Keras, MIScnn                   | `.keras`, or `.h5` with the whole model          |
| one of our architectures        | `.weights.h5`, with `architecture` and `options` |
| TensorFlow                      | a SavedModel folder with a serving signature     |
| TF Object Detection API         | its SavedModel folder: objects with masks        |
| TensorFlow Lite                 | `.tflite`                                        |
| PyTorch, fastai, others         | `.onnx`, from `torch.onnx.export`                |

Nothing that is read runs code of the file: what `segengine.guards` does not allow is refused, by the
table in README.md here. What the block leaves out is taken from the model where it says it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from segengine.asked import SLACK
from segengine.engines import Engine, Precision, Shape, of_noise
from segengine.networks import bundles
from segengine.networks.crf import Crf
from segengine.networks.scale import Scale
from segengine.networks.temperature import Temperature
from segengine.segmenters import _detector, _files, _heads, _proposals, maskrcnn
from segengine.segmenters._augment import Augment, Augmented, augmented
from segengine.segmenters._cellpose import FLOW_THRESHOLD
from segengine.segmenters._detector import Detector
from segengine.segmenters._files import EngineName, Opened, check_choice, path_of
from segengine.segmenters._finder import Finder
from segengine.segmenters._heads import Head
from segengine.segmenters._network import (
    Activation,
    Blended,
    Exact,
    Layout,
    Network,
    Resized,
    Valid,
    is_count,
    require_bands,
)
from segengine.segmenters._proposals import Proposer
from segengine.segmenters.maskrcnn import MaskRcnn
from segengine.types import Color, Segmenter

Auto = Literal["auto"]
WINDOW = 512
"""Side of a window, in pixels, of a network that sees all of it."""
CORE = 1024
"""Most pixels, along an axis, that count in a window of a network with a finite view."""
_STEPS = 33
"""Sides of windows that are tried until a network takes one."""
_OF_SIZES = re.compile(r"shape|dimension|size|concat", re.IGNORECASE)
"""What engines say of sizes that do not fit."""
FINDERS = (maskrcnn.ARCHITECTURE, *_proposals.ARCHITECTURES)
"""Architectures whose bundles have segmenters of their own: they find objects."""
_PROBABILITIES = ("sigmoid", "softmax", "hard_sigmoid")
_BOUNDED = ("tanh", "softsign", "hard_tanh")
"""Activations of which nobody can tell what they mean here."""
CUT = 0.5
"""What a single channel, or a detector's score, must exceed."""


def create(
    path: str,
    bands: Sequence[int] | int | None = None,
    scale: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    activation: Activation | None = None,
    layout: Layout | None = None,
    window: int | Auto = "auto",
    overlap: float = 0.5,
    batch: int | Auto = "auto",
    engine: EngineName | None = None,
    precision: Precision = "float32",
    threshold: float | None = None,
    resize: Sequence[int] | None = None,
    crf: bool | Mapping[str, Any] = False,
    architecture: str | None = None,
    options: Mapping[str, Any] | None = None,
    temperature: float | Mapping[str, float] | None = None,
    augment: Augment | None = None,
    head: Head = "auto",
    outputs: str | Mapping[str, str] | None = None,
    min_score: float | None = None,
    duplicates: float | None = None,
    flow_threshold: float | None = FLOW_THRESHOLD,
) -> Network | Augmented | Detector | Finder | MaskRcnn | Proposer:
    """A network on disk as a segmenter.

    path: a file or folder of one of the formats in the table above. bands: 1-based numbers of the
    raster's bands in the network's order, or their count. scale: {divide: v}, {mean: [...], std:
    [...], divide: v} on the divided values, or {range: [lo, hi]}, the values that become 0 and 1;
    not with range, {minimum: v, maximum: v}, which values are cut to first, one or one a band.
    classes: a name a channel; of one channel, two: below and above. activation: what makes
    probabilities of the network's output, none, sigmoid or softmax; by default what the model ends
    in tells. A model that gives whole numbers, one a pixel, gives labels. layout: nhwc or nchw.
    window: side in pixels; auto: as large as pays, or the network's own, or the patches that a
    bundle learned from. overlap: share of a window that neighbours repeat, where the network's view
    has no bound. batch: windows run at once. engine: tensorflow, openvino, or onnxruntime for ONNX
    files; by default what the file is made for. precision: float32, or bfloat16 for speed.
    threshold: what a single channel, or a detector's score, must exceed; by default 0.5, or what a
    bundle of Mask R-CNN says. resize: [height, width] whole frames are resized to, for a network
    trained on resized photos. crf: a fully connected CRF on whole RGB frames, true or its
    parameters by name. architecture, options: of a `.weights.h5`, as for `segengine.models.build`.
    temperature: what makes its probabilities as sure as they are right, a number or {scale: v,
    entropy: v}, from `segengine calibrate`; a bundle may hold its own. augment: flips, the mean of
    the frame and its three flips, or d4, of all eight turns. head: what the outputs mean, labels,
    logits or probabilities of pixels, or objects as detections, yolo-seg, stardist or cellpose give
    them; auto where the model tells. outputs: the name of the output that counts, or of a head's,
    {boxes: name, ...}. min_score: least score of an object. duplicates: IoU of boxes of a class
    above which the worse goes; of stardist share of the smaller polygon. flow_threshold: of
    cellpose, mean squared difference of an object's flows from those of its shape above which it
    goes, the network's divided by 5; 0 or null keeps all.
    """
    cut = CUT if threshold is None else threshold
    check_options(bands, classes, window, overlap, batch, cut, resize)
    for name, value, known in (
        ("activation", activation, Activation),
        ("layout", layout, Layout),
        ("engine", engine, EngineName),
        ("precision", precision, Precision),
        ("head", head, Head),
    ):
        if value is not None:
            check_choice(name, value, known)
    file = path_of("path", path)
    try:
        if bundles.is_bundle(file):
            bundle = bundles.read(file)
            if bundle.architecture in FINDERS and architecture in (None, bundle.architecture):
                unused = {
                    "classes": classes,
                    "activation": activation,
                    "layout": layout,
                    "window": window,
                    "overlap": overlap,
                    "batch": batch,
                    "engine": None if engine == "tensorflow" else engine,
                    "precision": precision,
                    "resize": resize,
                    "crf": crf,
                    "options": options,
                    "temperature": temperature,
                    "augment": augment,
                    "head": head,
                    "outputs": outputs,
                    "duplicates": duplicates,
                    "min_score": min_score,
                    "flow_threshold": flow_threshold,
                }
                return _finder(path, bundle, bands, scale, threshold, unused)
        opened = _files.open_model(
            file,
            engine,
            precision,
            architecture,
            len(bands) if isinstance(bands, Sequence) else bands,
            _channels(classes, activation),
            options,
        )
        asked_head = _heads.Asked(
            head,
            bands,
            layout,
            scale,
            classes,
            outputs,
            window,
            overlap,
            resize,
            min_score,
            duplicates,
            flow_threshold,
        )
        unused = {"activation": activation, "batch": batch, "threshold": threshold, "crf": crf}
        finds = _heads.finder(
            opened, asked_head, unused | {"temperature": temperature, "augment": augment}
        )
        if finds is not None:
            return finds
        if _detector.NEEDED.issubset(opened.engine.outputs):
            for own, set_ in (("temperature", temperature), ("augment", augment)):
                if set_ is not None:
                    raise ValueError(f"{own}: the model finds objects, and has no probabilities")
            return _detect(opened.engine, bands, classes, cut, opened.digest)
        found = network(
            opened,
            opened.digest,
            bands=bands,
            scale=scale,
            classes=classes,
            activation=activation,
            layout=layout,
            window=window,
            overlap=overlap,
            batch=batch,
            threshold=_cut_of(opened, cut) if threshold is None else cut,
            resize=resize,
            crf=crf,
            temperature=temperature,
            head=head,
            output=asked_head.output,
        )
        return augmented(found, augment)
    except OSError as error:
        raise ValueError(f"path: {path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        own = str(error).partition(":")[0].partition(".")[0]
        if own in create.__annotations__:  # it names the option that is wrong
            raise
        raise ValueError(f"path: {path}: {error}") from error


def _cut_of(opened: Opened, usual: float) -> float:
    """What a single channel must exceed, where the model says so."""
    told = None if opened.trained is None else opened.trained.threshold
    return usual if told is None else told


def _finder(
    path: str,
    bundle: bundles.Bundle,
    bands: Sequence[int] | int | None,
    scale: Mapping[str, Any] | None,
    threshold: float | None,
    unused: Mapping[str, Any],
) -> MaskRcnn | Proposer:
    """The segmenter of a bundle of what finds objects. Raises ValueError."""
    if bundle.architecture == maskrcnn.ARCHITECTURE:
        least = {} if threshold is None else {"min_score": float(threshold)}
        _check_untouched(path, bundle, {"bands": bands, "scale": scale, **unused})
        return maskrcnn.of_bundle(path, bundle, changes=least)
    _check_untouched(path, bundle, unused)
    score = CUT if threshold is None else threshold
    try:
        return _proposals.create(bundle.architecture, path, bands, scale, min_score=score)
    except ValueError as error:
        raise ValueError(str(error).removeprefix(f"weights: {path}: ")) from error


def network(
    opened: Opened,
    digest: str,
    *,
    bands: Sequence[int] | int | None,
    scale: Mapping[str, Any] | None,
    classes: Sequence[str] | None,
    activation: Activation | None,
    layout: Layout | None = None,
    window: int | Auto = "auto",
    overlap: float = 0.5,
    batch: int | Auto = "auto",
    threshold: float = CUT,
    resize: Sequence[int] | None = None,
    crf: bool | Mapping[str, Any] = False,
    colors: tuple[Color, ...] = (),
    temperature: float | Mapping[str, float] | None = None,
    head: Head = "auto",
    output: str | None = None,
) -> Network:
    """An opened network as a segmenter; what is None is what the model says. Raises ValueError."""
    engine, bundle = opened.engine, opened.bundle
    said = output is not None or head != "auto" or bundle is not None
    output = output or engine.outputs[0]
    if len(engine.input_shape) != 4:
        raise ValueError(f"it takes {engine.input_shape}; images have four axes, with the batch")
    layout = layout or _heads.layout_of(engine.input_shape)
    size = engine.input_shape[1:3] if layout == "nhwc" else engine.input_shape[2:4]
    takes = engine.input_shape[3 if layout == "nhwc" else 1]
    if bundle is not None:
        bands = bundle.bands if bands is None else bands
        scale = bundle.scale if scale is None else scale
        classes = bundle.classes if classes is None else classes
        temperature = bundle.inference.get("temperature") if temperature is None else temperature
        height, width = bundle.size
        if resize is None and bundle.resize and height is not None and width is not None:
            resize = (height, width)
    trained = opened.trained
    if trained is not None:
        _heads.check_scaled(trained, scale)
        scale = trained.scale if scale is None else scale
        if window == "auto" and opened.context is None and size == (None, None):
            window = trained.window or "auto"
    chosen = _heads.chosen_bands(bands, takes)
    count = chosen if isinstance(chosen, int) else len(chosen)
    scaling = Scale.of(scale)
    scaling.check(count)
    if window == "auto" and opened.context is None and bundle is not None:
        # What it learned from: in larger windows, a network that sees all of one does worse.
        window = bundle.size[0] if bundle.size[0] == bundle.size[1] and bundle.size[0] else "auto"
    if resize is not None:
        cut: Exact | Blended | Valid | Resized = _resized(resize, size)
        sizes = [cut.size]  # type: ignore[union-attr]
    else:
        cut = _cut(opened.context, size, window, overlap)
        side = cut.window if isinstance(cut, Blended) else cut.limit
        free = size == (None, None) and window == "auto"
        sizes = [(n, n) for n in (side, *(range(side - 1, side - _STEPS, -1) if free else ()))]
    tried, shapes = _first_taken(engine, sizes, count, layout)
    taken = tried[1:3] if layout == "nhwc" else tried[2:]
    channels, margin = _output_channels(shapes[output], taken, layout)
    if margin:
        if resize is not None:
            raise ValueError("resize: the model gives nothing for the border of its windows")
        cut = Valid(taken[0], margin)
    elif taken != sizes[0]:
        raise ValueError(f"window: the model takes {taken[0]}, and not {sizes[0][0]}; name it")
    labels = channels == 1 and output in engine.integers
    activation = _meant(head, activation, labels, channels)
    if classes is None and trained is not None and trained.classes:
        classes = _fitting(trained.classes, channels, labels)
    names = _labelled(classes, activation, crf) if labels else _classes(classes, channels)
    if bundle is not None and len(bundle.colors) == len(names):
        colors = bundle.colors
    if labels and temperature is not None:
        raise ValueError("temperature: needs probabilities, and the model gives labels")
    return Network(
        engine=engine,
        output=output,
        unread=() if said else tuple(name for name in engine.outputs if name != output),
        classes=names,
        bands=chosen,
        scale=scaling,
        cut=cut,
        weights=digest,
        activation="none" if labels else _activation(opened, output, channels, activation, tried),
        layout=layout,
        batch=None if batch == "auto" else batch,
        threshold=float(threshold),
        single=channels == 1 and not labels,
        colors=colors,
        crf=Crf.of(crf),
        temperature=Temperature.of(temperature),
        labels=labels,
        trained=trained,
    )


def _fitting(names: tuple[str, ...], channels: int, labels: bool) -> tuple[str, ...] | None:
    """A model's own names of its classes; None where there are not so many."""
    if labels or len(names) == (2 if channels == 1 else channels):
        return names
    return ("background", *names) if (len(names), channels) == (1, 1) else None


def _first_taken(
    engine: Engine, sizes: Sequence[tuple[int, int]], bands: int, layout: Layout
) -> tuple[tuple[int, ...], dict[str, tuple[int, ...]]]:
    """The batch of the first size of windows that a network takes, and the shapes that it gives.

    Of valid convolutions with skips between depths few sizes fit: of the published U-Net one in 16.
    Raises ValueError as of the first where none is taken.
    """
    one, refused = engine.input_shape[0] or 1, None
    for height, width in sizes:
        tried = (one, height, width, bands) if layout == "nhwc" else (one, bands, height, width)
        try:
            return tried, engine.try_out(tried)
        except ValueError as error:
            refused = refused or error
            if not _OF_SIZES.search(str(error)):
                break
    assert refused is not None
    raise refused


def _channels(classes: Sequence[str] | None, activation: Activation | None) -> int | None:
    """Channels of a network of ours: one a class, but two of a sigmoid share one."""
    if classes is None:
        return None
    return 1 if activation == "sigmoid" and len(classes) == 2 else len(classes)


def _resized(resize: Sequence[int], size: Shape) -> Resized:
    height, width = resize
    for given, own in zip(resize, size, strict=True):
        if own is not None and given != own:
            raise ValueError(f"resize: the model takes {size[0]} x {size[1]} only")
    return Resized((height, width))


def _cut(
    context: tuple[int, int] | None, size: Shape, window: int | Auto, overlap: float
) -> Exact | Blended:
    """How windows are cut: hard where the network's view is finite and fits, else blended."""
    height, width = size
    fixed = height is not None or width is not None
    if fixed and height != width:
        raise ValueError(
            f"it takes windows of {height} x {width} only; for whole frames of that shape set "
            f"`resize: [{height}, {width}]`"
        )
    if height is not None and window not in ("auto", height):
        raise ValueError(f"window: the model takes {height} x {height} only, not {window}")
    halo, stride = context or (0, 1)
    side = height or (window if isinstance(window, int) else 0)
    if context is not None and not fixed:
        limit = side or CORE + 2 * halo
        limit -= limit % stride
        if limit - 2 * halo >= stride:
            return Exact(halo, stride, limit)
    side = side or WINDOW
    step = round(side * (1 - overlap))
    aligned = fixed or not (side % stride or step % stride)  # fixed: never a part of a window
    if not aligned or step < 1:
        raise ValueError(
            f"window: {side} with overlap {overlap} steps by {step}; both must be multiples of the "
            f"network's {stride}"
        )
    return Blended(side, step, fixed)


def _output_channels(
    shape: tuple[int, ...], size: tuple[int, ...], layout: Layout
) -> tuple[int, int]:
    """Channels of an output, and how many pixels of its window it lacks on each side."""
    spatial: tuple[int, ...]
    if len(shape) == 3:  # a single channel without an axis of its own
        spatial, channels = shape[1:], 1
    elif layout == "nhwc":
        spatial, channels = shape[1:-1], shape[-1]
    else:
        spatial, channels = shape[2:], shape[1]
    lacks = {n - m for n, m in zip(size, spatial, strict=False)}
    lack = lacks.pop()
    if len(spatial) != 2 or lacks or lack < 0 or lack % 2 or lack >= min(size) // 2:
        raise ValueError(
            f"its output is {shape} for windows of {size}; it must give one value a class for each "
            "pixel, or for all but a margin below a quarter of the window"
        )
    return channels, lack // 2


def _labelled(
    classes: Sequence[str] | None, activation: Activation | None, crf: bool | Mapping[str, Any]
) -> tuple[str, ...]:
    """The classes of a model that gives each pixel the number of its class. Raises ValueError."""
    if activation is not None:
        raise ValueError("activation: the model gives labels, which need none; leave it out")
    if crf:
        raise ValueError("crf: needs probabilities, and the model gives labels")
    if classes is None or len(classes) < 2:
        raise ValueError(
            "classes: the model gives labels and does not say of which classes; name them in order"
        )
    return tuple(classes)


def _classes(classes: Sequence[str] | None, channels: int) -> tuple[str, ...]:
    wanted = 2 if channels == 1 else channels
    if classes is None:
        if channels == 1:
            return ("background", "object")
        return tuple(f"class {i}" for i in range(channels))
    if len(classes) != wanted:
        raise ValueError(
            f"classes: {len(classes)} are named and the model has {channels} "
            f"channel{'s, one a class' if channels > 1 else ', which tells two classes'}"
        )
    return tuple(classes)


def _meant(
    head: Head, activation: Activation | None, labels: bool, channels: int
) -> Activation | None:
    """The activation that a head asks for. Raises ValueError where the output is none such."""
    if head == "labels" and not labels:
        raise ValueError("head: the model's output holds no whole numbers, one a pixel")
    if head not in ("logits", "probabilities"):
        return activation
    if labels:
        raise ValueError(f"head: the model gives labels, and no {head}")
    own: Activation = "none"
    if head == "logits":
        own = "sigmoid" if channels == 1 else "softmax"
    if activation not in (None, own) and (head == "probabilities" or activation == "none"):
        raise ValueError(f"activation: {activation} does not go with head: {head}; leave one out")
    return activation or own


def _activation(
    opened: Opened,
    output: str,
    channels: int,
    asked: Activation | None,
    tried: tuple[int, ...],
) -> Activation:
    """What its output still lacks to be probabilities; never the same function twice.

    tried: the shape of a batch that it takes. Raises ValueError where nothing tells.
    """
    ends_in = opened.ends_in if output == opened.engine.outputs[0] else None
    if asked is None and opened.bundle is not None:
        check_choice("activation", opened.bundle.activation, Activation)
        asked = opened.bundle.activation  # type: ignore[assignment]
    if asked is not None:
        return "none" if asked == ends_in else asked
    if ends_in in _PROBABILITIES:
        return "none"
    logits: Activation = "sigmoid" if channels == 1 else "softmax"
    if ends_in == "linear":
        return logits
    values = of_noise(opened.engine, tried)[output]
    low, high = float(values.min()), float(values.max())
    if ends_in not in _BOUNDED and low < -SLACK:
        return logits
    axis = next((i for i in (-1, 1) if channels > 1 and values.shape[i] == channels), None)
    if axis is not None and low >= 0 and np.allclose(values.sum(axis=axis), 1, atol=SLACK):
        return "none"
    raise ValueError(
        f"activation: nothing tells whether the model gives probabilities (on noise its values go from "
        f"{low:.3g} to {high:.3g}); set `activation`: none where they are, {logits} where they are not"
    )


def _detect(
    engine: Engine,
    bands: Sequence[int] | int | None,
    classes: Sequence[str] | None,
    threshold: float,
    digest: str,
) -> Detector:
    if classes is None:
        raise ValueError(
            "classes: a detector's file has no names; give its label map in order, from 1 on"
        )
    chosen = _heads.chosen_bands(3 if bands is None else bands, engine.input_shape[3])
    return Detector(engine, ("background", *classes), chosen, float(threshold), digest)


def _check_untouched(path: str, bundle: bundles.Bundle, options: Mapping[str, Any]) -> None:
    """Raise ValueError naming an option that a bundle of what finds objects has no use for."""
    defaults = inspect.signature(create).parameters
    for name, value in options.items():
        if value != defaults[name].default:
            raise ValueError(
                f"{name}: {path} is a bundle of {bundle.architecture}, which needs none; what can "
                f"be changed are the options of `kind: {bundle.architecture}` with `weights: {path}`"
            )


def check_options(
    bands: Any, classes: Any, window: Any, overlap: Any, batch: Any, threshold: Any, resize: Any
) -> None:
    """Raise ValueError naming an option of a network that is of no use."""
    if bands is not None:
        require_bands(bands)
    if classes is not None and (
        not _is_list(classes) or not classes or len(set(map(str, classes))) != len(classes)
    ):
        raise ValueError(f"classes: must be a list of different names, not {classes!r}")
    for name, value in (("window", window), ("batch", batch)):
        if value != "auto" and not is_count(value):
            raise ValueError(f"{name}: must be auto or an integer from 1 on, not {value!r}")
    for name, value, most in (("overlap", overlap, 0.95), ("threshold", threshold, 1)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
            raise ValueError(f"{name}: must be a number from 0 to {most}, not {value!r}")
    if resize is not None and not (
        _is_list(resize) and len(resize) == 2 and all(is_count(n) for n in resize)
    ):
        raise ValueError(f"resize: must be [height, width] in pixels, not {resize!r}")


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


_: type[Segmenter] = Network
