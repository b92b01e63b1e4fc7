"""Training of Mask R-CNN: the loop, the stages, and what is kept; from instances to a bundle.

    architecture: {name: mask-rcnn, backbone: resnet50, weights: coco, stages: [...]}

As the Mask_RCNN project published it: SGD with rate 0.001 and momentum 0.9 (unless `optimizer` says
otherwise), the gradient of all variables clipped to a norm of 5, a weight decay of 1e-4 that is
divided by each tensor's size, and from given weights first the heads, then the backbone's stages
from the fourth on, then all at a tenth of the rate. Without weights all is learned from the start,
and normalisation with it. `stages` names others, such as

    stages: [{layers: heads, epochs: 10}, {layers: 3+, epochs: 10}, {layers: all, rate: 0.1}]

The folder is as of any training; the same job gives the same weights, also when it is killed and
run again. `segmenter: {kind: mask-rcnn, weights: OUT/bundle}` takes the bundle.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from segengine import asked, registry
from segengine.ahead import one_ahead
from segengine.errors import JobError
from segengine.models._build import leaves
from segengine.models.maskrcnn.config import Config, preset
from segengine.models.maskrcnn.detect import detector
from segengine.models.maskrcnn.download import resolve
from segengine.models.maskrcnn.maps import draw as draw_maps
from segengine.models.maskrcnn.network import network
from segengine.models.maskrcnn.step import Batch, make_batch, signature, training_losses
from segengine.models.maskrcnn.weights import load
from segengine.pictures import draw
from segengine.training import checkpoints, pictures
from segengine.training._objects import (
    as_learned,
    changed,
    check_truth,
    check_unused,
    class_names,
    read_objects,
    stacked,
    whole_truth,
)
from segengine.training.bundle import Bundle, portable
from segengine.training.data import Data, order
from segengine.training.epochs import Epochs, Note, Outline, Update, named_start, start_from
from segengine.training.job import AugmentSpec, TrainJob
from segengine.training.optimizers import optimizer, said
from segengine.types import Color, Prediction

CLIP = 5.0
"""Greatest norm of the gradient of all variables."""
DECAY = 1e-4
RATE, MOMENTUM = 1e-3, 0.9
PARTS = ("rpn_class", "rpn_box", "class", "box", "mask")
LAYERS = {"heads": 6, "5+": 5, "4+": 4, "3+": 3, "all": 0}
"""What a stage learns: layers from this stage of the backbone on."""
_ORDER, _CHANGE, _DRAW = range(3)  # streams of random numbers


@dataclass(frozen=True, slots=True)
class Stage:
    """Some epochs that learn some of the layers."""

    layers: str
    epochs: int
    rate: float = 1.0
    """What the learning rate is multiplied by."""


def config_of(job: TrainJob, data: Data) -> Config:
    """The network's constants: the architecture's options; `input.size` is `max_side`."""
    height, width = job.input.size
    if height != width:
        raise JobError(f"input.size: mask-rcnn takes squares, not {height} x {width}")
    if job.input.resize is not True:
        raise JobError("input.resize: mask-rcnn learns from whole frames; set it to true")
    if "scale" in job.input.model_fields_set:
        raise JobError("input.scale: mask-rcnn has its own; set architecture.mean and .deviation")
    given = dict(job.architecture.options)
    pretrained = given.pop("weights", None) is not None or job.from_ is not None
    for name in ("stages", "classes"):
        given.pop(name, None)
    given = {"train_norm": not pretrained, "max_side": height} | given
    name = given.pop("preset", "matterport")
    try:
        return preset(name, len(class_names(data)), bands=data.bands, **given)
    except ValueError as error:
        raise JobError(f"architecture.{error}") from None


def stages_of(job: TrainJob) -> tuple[Stage, ...]:
    """The stages of all epochs; the last one has what is left. Raises JobError."""
    given = job.architecture.options.get("stages")
    if given is None:
        if job.architecture.options.get("weights") is None and job.from_ is None:
            return (Stage("all", job.epochs),)
        # 40, 80 and 40 epochs as published
        heads, upper = job.epochs // 4, job.epochs // 2
        rest = job.epochs - heads - upper
        stages = (Stage("heads", heads), Stage("4+", upper), Stage("all", rest, 0.1))
        return tuple(stage for stage in stages if stage.epochs)
    key = "architecture.stages"
    if not isinstance(given, list) or not given or not all(isinstance(s, dict) for s in given):
        raise JobError(f"{key}: must be a list of {{layers: ..., epochs: ..., rate: ...}}")
    found = []
    left = job.epochs
    for place, each in enumerate(given):
        last = place == len(given) - 1
        strange = sorted(set(each) - {"layers", "epochs", "rate"})
        layers, epochs, rate = each.get("layers"), each.get("epochs", left), each.get("rate", 1.0)
        if strange:
            raise JobError(f"{key}: {strange[0]} is none of layers, epochs and rate")
        if layers not in LAYERS:
            raise JobError(f"{key}: layers must be one of {', '.join(LAYERS)}, not {layers!r}")
        if type(epochs) is not int or epochs < 1 or (last and epochs > left):
            raise JobError(f"{key}: epochs must be from 1 to those that are left, not {epochs!r}")
        if isinstance(rate, bool) or not isinstance(rate, int | float) or rate <= 0:
            raise JobError(f"{key}: rate must be above 0, not {rate!r}")
        found.append(Stage(layers, left if last else min(epochs, left), float(rate)))
        left -= found[-1].epochs
    return tuple(found)


def stage_at(stages: Sequence[Stage], epoch: int) -> Stage:
    """The stage of an epoch, from 0 on."""
    end = 0
    for stage in stages:
        end += stage.epochs
        if epoch < end:
            return stage
    return stages[-1]


def level(layer: str) -> int:
    """1 to 5 for a layer of that stage of the backbone, 6 for the pyramid and the heads.

    >>> [level(name) for name in ("bn_conv1", "res4f_branch2a", "fpn_c5p5")]
    [1, 4, 6]
    >>> [level(name) for name in ("backbone.body.layer1.0.conv1", "roi_heads.mask_head.0.0")]
    [2, 6]
    """
    if layer in ("conv1", "bn_conv1", "backbone.body.conv1", "backbone.body.bn1"):
        return 1
    if found := re.match(r"(?:res|bn)(\d)[a-z]_", layer):
        return int(found[1])
    if found := re.match(r"backbone\.body\.layer(\d)\.", layer):
        return int(found[1]) + 1
    return 6


def build(job: TrainJob, data: Data) -> keras.Model:
    """The network of a job, with fresh weights. Raises JobError for whatever cannot be trained."""
    check_truth(data, job.architecture.name)
    own = "mask-rcnn has losses and figures of its own"
    check_unused(job, {"loss": own, "class_weights": own, "metrics": own})
    stages_of(job)
    return network(config_of(job, data))


def outline(job: TrainJob, data: Data) -> Outline:
    """What a training would do. Raises JobError."""
    model, stages, steps = build(job, data), stages_of(job), _steps(job, data)
    shown = [
        f"{stage.epochs} of {stage.layers} at {stage.rate:g} times the rate" for stage in stages
    ]
    decided = [f"epochs: {', '.join(shown)}"]
    if "optimizer" not in job.model_fields_set:
        decided.append(said(optimizer_of(job, stages, steps)))
    return Outline(model, steps, len(data.validation.frames), None, tuple(decided))


def _steps(job: TrainJob, data: Data) -> int:
    return -(-len(data.train.frames) // job.batch)


class _Rate(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate times that of the stage."""

    def __init__(self, base: Any, stages: Sequence[Stage], steps: int) -> None:
        self.base = base
        self.ends = np.cumsum([stage.epochs for stage in stages])[:-1] * steps
        self.rates = np.array([stage.rate for stage in stages], np.float32)

    def __call__(self, step: Any) -> Any:
        base = self.base(step) if callable(self.base) else self.base
        at = tf.searchsorted(self.ends, [tf.cast(step, self.ends.dtype)], side="right")[0]
        return base * tf.gather(self.rates, at)

    def get_config(self) -> dict[str, Any]:
        raise NotImplementedError  # the optimizer is rebuilt from its job, never from a file


def optimizer_of(job: TrainJob, stages: Sequence[Stage], steps: int) -> Any:
    """The job's optimizer, or the published one where it names none; clipped as published."""
    if "optimizer" in job.model_fields_set:
        found = optimizer(job, steps)
    else:
        found = keras.optimizers.SGD(RATE, momentum=MOMENTUM)
    found.global_clipnorm = CLIP
    if any(stage.rate != 1 for stage in stages):
        given = found._learning_rate
        schedule = isinstance(given, keras.optimizers.schedules.LearningRateSchedule)
        base = given if schedule else float(np.asarray(found.learning_rate))
        found._learning_rate = _Rate(base, stages, steps)
    return found


class Training(Epochs):
    """A network, its data and how far it is."""

    def __init__(self, job: TrainJob, data: Data, update: Update, note: Note) -> None:
        super().__init__(job, data, update, note)
        self.model = self.network = build(job, data)
        self.config = config_of(job, data)
        self.stages = stages_of(job)
        self.steps = _steps(job, data)
        self._start_weights()
        self.optimizer = optimizer_of(job, self.stages, self.steps)
        self.optimizer.build(self.model.trainable_variables)
        self.detect = detector(self.model, self.config)
        self.losses = tf.function(
            lambda *parts: training_losses(self.model, self.config, Batch(*parts), False),
            input_signature=signature(self.config),
            autograph=False,
        )
        self._steps: dict[str, Any] = {}
        self._lost: dict[str, str] = {}
        self.resume()

    def _start_weights(self) -> None:
        weights = self.job.architecture.options.get("weights")
        if weights is not None:
            try:
                left = load(self.model, self.config, resolve(weights), other_classes=True)
            except ValueError as error:
                raise JobError(f"architecture.{error}") from None
            self.note(f"starts from {weights}, but for {left} tensors of other classes")
        if (start := named_start(self.job)) is not None:
            self.note(start_from(self.job, start[1], self.network))

    # --------------------------------------------------------------------------------- batches

    def _batches(self, epoch: int | None) -> Iterator[Batch]:
        """An epoch's batches, None: the validation part; the next is made while one is used."""
        frames = self.data.validation.frames if epoch is None else self.data.train.frames
        places = list(range(len(frames)))
        if epoch is not None:
            rng = np.random.default_rng([self.job.seed, epoch, _ORDER])
            places = order(len(frames), self.job.window, rng)
        size = self.job.batch
        groups = [places[i : i + size] for i in range(0, len(places), size)]
        yield from one_ahead(self._batch(epoch, place, group) for place, group in enumerate(groups))

    def _batch(self, epoch: int | None, place: int, group: Sequence[int]) -> Batch:
        frames = self.data.validation.frames if epoch is None else self.data.train.frames
        spec = AugmentSpec() if epoch is None else self.job.augment
        learned = []
        for index in group:
            found, reason = read_objects(frames[index], self.data)
            if reason:
                self._lost[frames[index].ref.name] = reason
            found = changed(found, spec, [self.job.seed, epoch or 0, _CHANGE, index])
            learned.append(as_learned(found, self.config))
        images, windows = stacked([prepared for prepared, _ in learned])
        seed = [self.job.seed, 0 if epoch is None else epoch + 1, _DRAW, place]
        truths = [truth for _, truth in learned]
        return make_batch(self.config, images, windows, truths, np.random.default_rng(seed))

    # ------------------------------------------------------------------------------------ steps

    def _step(self, stage: Stage) -> Any:
        """One step of a stage as a graph: a batch to the parts of its loss."""
        if stage.layers in self._steps:
            return self._steps[stage.layers]
        learned = {
            id(variable)
            for layer in leaves(self.model)
            if level(layer.name) >= LAYERS[stage.layers]
            for variable in layer.trainable_variables
        }
        chosen = [v for v in self.model.trainable_variables if id(v) in learned]
        decayed = [v for v in chosen if v.name not in ("gamma", "beta")]
        adamw = isinstance(self.optimizer, keras.optimizers.AdamW)

        def step(*parts: Any) -> dict[str, Any]:
            with tf.GradientTape() as tape:
                found = training_losses(self.model, self.config, Batch(*parts), True)
                total = tf.add_n(list(found.values()))
                if not adamw:
                    # squares over the tensor's size, as published
                    squares = [tf.reduce_mean(tf.square(v.value)) for v in decayed]
                    total += DECAY * tf.add_n(squares)
            slopes = tape.gradient(total, [v.value for v in chosen])
            self.optimizer.apply([tf.convert_to_tensor(slope) for slope in slopes], chosen)
            return found

        self._steps[stage.layers] = tf.function(
            step, input_signature=signature(self.config), autograph=False
        )
        return self._steps[stage.layers]

    def epoch(self) -> dict[str, float]:
        epoch, rate = self.state.epochs, self.rate
        step = self._step(stage_at(self.stages, epoch))
        means = _Means()
        for place, batch in enumerate(self._batches(epoch), 1):
            means.add(step(*batch), len(batch.images))
            self.stepped(place, f"loss {means.figures()['loss']:.3f}")
        looked = _Means()
        for batch in self._batches(None):
            looked.add(self.losses(*batch), len(batch.images))
        for part in (self.data.train, self.data.validation):
            names = {frame.ref.name for frame in part.frames}
            self.tell_lost({n: r for n, r in self._lost.items() if n in names}, names)
        figures = means.figures()
        figures |= {f"val_{name}": value for name, value in looked.figures().items()}
        figures |= {f"val_{name}": value for name, value in self._precision().items()}
        figures["learning_rate"] = rate
        return figures

    def _precision(self) -> dict[str, float]:
        """AP of masks on the validation part, in the frames' own pixels."""
        classes = class_names(self.data)
        options = {"classes": classes, "truth_classes": self.data.classes, "kinds": ("mask",)}
        metric = registry.create("metrics", "coco", options)
        state = metric.empty()
        for frame in self.data.validation.frames:
            found, reason = read_objects(frame, self.data)
            if reason:
                continue
            labels, ids, objects = self._found(found.pixels)
            seen = Prediction(labels[None], instances=ids[None], objects=objects)
            state = metric.update(state, seen, whole_truth(frame))
        figures = metric.compute(state)["mask"]
        return {name: float(figures[name] or 0.0) for name in ("ap", "ap50")}

    def _found(self, pixels: NDArray[np.uint8]) -> tuple[NDArray[Any], NDArray[np.uint32], Any]:
        return draw_maps(self.detect(pixels, False), pixels.shape[:2], len(class_names(self.data)))

    # ------------------------------------------------------------------------------ what is kept

    def picture(self) -> None:
        found, _ = read_objects(self.data.validation.frames[0], self.data)
        true = np.zeros(found.pixels.shape[:2], np.uint16)
        for mask, kind in zip(found.masks, found.classes, strict=True):
            true[mask] = kind
        labels, _, _ = self._found(found.pixels)
        names = class_names(self.data)
        picture = pictures.sample_picture(
            found.pixels, true, labels.astype(np.uint16), names, draw_colors(self.data)
        )
        checkpoints.write(self.pictured, draw.encode_png(picture))

    def bundle(self, metrics: Mapping[str, float]) -> Bundle:
        return bundle_of(self.job, self.data, self.config, metrics)


class _Means:
    """The mean of each part of the loss over images."""

    def __init__(self) -> None:
        self.sums, self.count = dict.fromkeys(PARTS, 0.0), 0

    def add(self, parts: Mapping[str, Any], count: int) -> None:
        """A batch's."""
        for name in PARTS:
            self.sums[name] += float(parts[name]) * count
        self.count += count

    def figures(self) -> dict[str, float]:
        """Their sum as `loss`, and each."""
        means = {name: value / self.count for name, value in self.sums.items()}
        return {"loss": sum(means.values()), **means}


def draw_colors(data: Data) -> tuple[Color, ...]:
    """The colours of the network's classes: those of the truth, by name, where it has its own."""
    names = class_names(data)
    ours = asked.palette(len(names))
    own = dict(zip(data.classes, data.colors, strict=True))
    if ours[0] in (own.get(name) for name in names[1:]):
        return ours  # the truth has a palette of ours, whose dark would go to an object
    return tuple(own.get(name, color) for name, color in zip(names, ours, strict=True))


def bundle_of(job: TrainJob, data: Data, config: Config, metrics: Mapping[str, float]) -> Bundle:
    """What `bundle.json` says of a training."""
    options = {k: v for k, v in config.to_dict().items() if k not in ("classes", "bands")}
    return Bundle(
        architecture="mask-rcnn",
        options=options,
        bands=data.bands,
        classes=class_names(data),
        colors=draw_colors(data),
        scale={"mean": list(config.mean), "std": list(config.deviation)},
        activation="softmax",
        size=(None, None),
        resize=False,
        job=portable(job),
        metrics=dict(metrics),
    )
