"""Training of DeepMask and SharpMask: the loop, the losses, and what is kept; from instances to a bundle.

    architecture: {name: deepmask}
    architecture: {name: sharpmask}      # and `from: ...`, the bundle of a DeepMask

Half the patches of a step have an object in their middle, half have none. The loss is the mean over
pixels of the job's loss of the masks (the logistic one unless `loss` says otherwise) of the former,
and 1/32 of the logistic loss of the scores of all. A SharpMask that starts from a bundle keeps its
trunk and scores as they are and learns to refine masks, of objects only; without one it learns all.
Patches without an object are of all frames, also of those that have none.

As published (Pinheiro et al. 2015 and 2016, and their program), unless `optimizer` says otherwise:
SGD with a rate of 0.001 a patch for 32 patches a step, which falls twice; for DeepMask a momentum of
0.9 and a weight decay of 5e-4. They begin with a trunk that learned ImageNet and keep its
normalisation; from random weights normalisation is learned too (`train_norm`).

The folder is as of any training. `segmenter: {kind: model, path: OUT/bundle}` takes the bundle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import yaml

from segengine import asked, models
from segengine.errors import JobError
from segengine.models.deepmask import BORDER, INPUT, PATCH
from segengine.models.sharpmask import fix_trunk
from segengine.networks.bundles import IMAGENET
from segengine.pictures import draw
from segengine.training import _centred, checkpoints, pictures
from segengine.training._centred import VOID, Things
from segengine.training._objects import check_truth, check_unused
from segengine.training._pairs import Batch, Pairs
from segengine.training._scaling import nearest, scaled
from segengine.training.bundle import Bundle, portable
from segengine.training.data import Data
from segengine.training.epochs import Epochs, Note, Outline, Update, named_start, start_from
from segengine.training.job import ScaleSpec, TrainJob
from segengine.training.objective import loss_of
from segengine.training.optimizers import optimizer, said
from segengine.training.recalibration import Recalibration

CLASSES = ("background", "object")
SCORES = 1 / 32
"""Weight of the scores' loss."""
RATE, DECAY = 1e-3, 5e-4
"""Where the loss is a sum over a step's patches, as published; ours is a mean."""
MOMENTUM = {"deepmask": 0.9, "sharpmask": 0.0}
FALLS = {"deepmask": (50, 120), "sharpmask": (50, 80)}
"""Epochs after which the rate is a half, and a tenth."""
RECALIBRATED = 16
"""Most batches of an epoch for the statistics of batch normalisation."""
_OWN = ("bands", "classes", "size", "weights", "activation")


def check(job: TrainJob, data: Data) -> None:
    """Raise JobError naming what such a network cannot be trained with."""
    name = job.architecture.name
    check_truth(data, name)
    if "size" in job.input.model_fields_set and job.input.size != (INPUT, INPUT):
        raise JobError(
            f"input.size: the patches of {name} have {INPUT} x {INPUT} pixels; leave it out"
        )
    if "resize" in job.input.model_fields_set:
        raise JobError(f"input.resize: {name} learns from patches of its own; leave it out")
    if job.augment.crop < 1 or job.augment.scale > 1:
        key = "crop" if job.augment.crop < 1 else "scale"
        raise JobError(
            f"augment.{key}: {name} moves and scales its patches by itself, objects to be found "
            "have one size in them; leave it out"
        )
    reason = f"the objects of {name} have no class"
    check_unused(job, {"class_weights": reason, "metrics": reason})


@dataclass(frozen=True, slots=True)
class Built:
    """The network of a job, as it starts."""

    network: keras.Model
    options: Mapping[str, Any]
    """The architecture's, beyond bands, size and weights."""
    scale: ScaleSpec
    line: str
    """What it starts from; empty: random weights, or those of `architecture`."""


def build(job: TrainJob, data: Data) -> Built:
    """The network of a job, with the weights it starts from. Raises JobError."""
    check(job, data)
    given = job.architecture.options
    for key in ("classes", "activation"):
        if given.get(key) not in (None, 1):
            raise JobError(f"architecture.{key}: masks and scores are logits; leave it out")
    start = named_start(job)
    if start is not None:
        _check_start(job, start[0])
    fresh = start is None and not any(given.get(key) for key in ("weights", "trunk"))
    options: dict[str, Any] = {"train_norm": fresh}
    if start is not None and "backbone" in start[0].options:
        options["backbone"] = start[0].options["backbone"]
    options |= {name: value for name, value in given.items() if name not in _OWN}
    options["activation"] = None
    name = job.architecture.name
    try:
        network = models.build(name, bands=data.bands, weights=given.get("weights"), **options)
    except JobError as error:
        raise JobError(f"architecture.{error}") from None
    line = "" if start is None else _started(job, start[1], network)
    if job.batch % share_of(network):
        raise JobError(f"batch: half of it are patches with an object, so even, not {job.batch}")
    kept = {k: v for k, v in options.items() if k not in ("train_norm", "trunk")}
    scale = scale_of(job, None if start is None else start[0])
    try:
        scaled(np.zeros((1, 1, data.bands)), scale)
    except ValueError as error:
        raise JobError(f"input.scale.{error}") from None
    return Built(network, kept, scale, line)


def _check_start(job: TrainJob, bundle: Bundle) -> None:
    if bundle.architecture not in MOMENTUM:
        raise JobError(
            f"from: {job.from_} is a {bundle.architecture}, and {job.architecture.name} starts from "
            "a deepmask or sharpmask"
        )
    if job.architecture.options.get("trunk"):
        raise JobError("architecture.trunk: goes not with from, which brings one; leave it out")
    fixed = job.architecture.name == "sharpmask"
    if fixed and "scale" in job.input.model_fields_set and _said(job.input.scale) != bundle.scale:
        shown = yaml.safe_dump(dict(bundle.scale), default_flow_style=True).strip()
        raise JobError(f"input.scale: the trunk of {job.from_} learned with {shown}; leave it out")


def scale_of(job: TrainJob, start: Bundle | None) -> ScaleSpec:
    """The job's, else that of the weights it starts from. Raises JobError."""
    if "scale" in job.input.model_fields_set:
        return job.input.scale
    if start is not None:
        return ScaleSpec.model_validate(start.scale)
    given = job.architecture.options
    if given.get("trunk") or given.get("weights"):
        return ScaleSpec.model_validate(IMAGENET)
    return job.input.scale


def _started(job: TrainJob, source: keras.Model, network: keras.Model) -> str:
    """Copy what fits of `from`; of a SharpMask trunk and scores then stay."""
    if job.architecture.name == "deepmask":
        return start_from(job, source, network)
    line = f"trunk and scores are those of {job.from_}, and stay"
    if source.name == "sharpmask":
        line = f"{start_from(job, source, network)}; trunk and scores stay"
    try:
        fix_trunk(network, source)
    except ValueError as error:
        raise JobError(f"from: {job.from_}: {error}") from None
    return line


def _said(scale: ScaleSpec) -> dict[str, Any]:
    return scale.model_dump(mode="json", exclude_none=True)


def share_of(network: keras.Model) -> int:
    """Patches for each object: 2, one without it; 1 where scores are fixed, so that masks alone learn."""
    return 2 if network.get_layer("bottom_up").get_layer("score.1").trainable else 1


def outline(job: TrainJob, data: Data) -> Outline:
    """What a training would do. Raises JobError."""
    built = build(job, data)
    network, share = built.network, share_of(built.network)
    _mask_loss(job)
    learned, looked = _things(data)
    _, steps = _epoch(job, learned, share)
    shown = yaml.safe_dump(_said(built.scale), default_flow_style=True, width=200).strip()
    decided = [f"scale: {shown}"]
    decided += [f"pyramid: {', '.join(f'{s:.3g}' for s in _centred.pyramid(learned.sides))}"]
    if built.line:
        decided.insert(0, built.line)
    if "optimizer" not in job.model_fields_set:
        decided.append(said(optimizer_of(job, steps)))
    return Outline(network, steps, share * len(looked.learned), None, tuple(decided))


def _things(data: Data) -> tuple[Things, Things]:
    """The objects of both parts."""
    kinds = [i for i in range(len(data.classes)) if i not in asked.background(data.classes)]
    learned = _centred.survey(data.train.frames, kinds, "training")
    return learned, _centred.survey(data.validation.frames, kinds, "validation")


def _epoch(job: TrainJob, things: Things, share: int) -> tuple[int, int]:
    """Objects and steps of an epoch; each object makes `share` patches."""
    count = -(-job.input.patches // share) if job.input.patches else len(things.learned)
    return count, -(-count * share // job.batch)


class Training(Epochs):
    """A network, its data and how far it is."""

    def __init__(self, job: TrainJob, data: Data, update: Update, note: Note) -> None:
        super().__init__(job, data, update, note)
        self.built = build(job, data)
        self.model = self.network = self.built.network
        if self.built.line:
            note(self.built.line)
        self.side = int(self.network.outputs[0].shape[1])
        self.share = share_of(self.network)
        learned, looked = _things(data)
        self.pyramid = _centred.pyramid(learned.sides)
        count, self.steps = _epoch(job, learned, self.share)
        self.learned, self.looked = (
            Pairs(
                job=job,
                things=things,
                scales=(self.pyramid[0], self.pyramid[-1]),
                side=self.side,
                share=self.share,
                bands=data.bands,
                scale=self.built.scale,
                count=objects,
                lost={},
            )
            for things, objects in ((learned, count), (looked, None))
        )
        self.optimizer = optimizer_of(job, self.steps)
        self.optimizer.build(self.model.trainable_variables)
        self.mask_loss = _mask_loss(job)
        self.recalibrate = Recalibration(self.network)
        shapes = [
            tf.TensorSpec((None, INPUT, INPUT, data.bands), tf.float32),
            tf.TensorSpec((None, self.side, self.side), tf.int32),
            tf.TensorSpec((None,), tf.float32),
        ]
        self._learn, self._look = (
            tf.function(f, input_signature=shapes, autograph=False)
            for f in (self._train_step, self._look_step)
        )
        self.resume()

    # ------------------------------------------------------------------------------------ steps

    def _losses(self, batch: Batch, training: bool) -> tuple[dict[str, Any], Any, Any]:
        """The parts of the loss, and logits of masks and scores."""
        masks, scores = self.network(batch.pixels, training=training)
        count = tf.shape(batch.masks)[0]
        masks, scores = masks[:count], scores[:, 0]
        parts = {"mask": self.mask_loss(batch.masks, masks)}
        if self.share == 2:
            each = tf.nn.sigmoid_cross_entropy_with_logits(_centre(batch, scores), scores)
            parts["score"] = tf.reduce_sum(each * batch.known) / _atleast1(batch.known)
        return parts, masks, scores

    def _train_step(self, *tensors: Any) -> dict[str, Any]:
        variables = self.network.trainable_variables
        with tf.GradientTape() as tape:
            parts, _, _ = self._losses(Batch(*tensors), True)
            total = parts["mask"] + SCORES * parts.get("score", 0.0)
            if self._decays:
                squares = tf.add_n([tf.reduce_sum(v.value**2) for v in variables])
                total += DECAY / self.job.batch / 2 * squares
        slopes = tape.gradient(total, [v.value for v in variables])
        self.optimizer.apply([tf.convert_to_tensor(slope) for slope in slopes], variables)
        return parts

    @property
    def _decays(self) -> bool:
        return "optimizer" not in self.job.model_fields_set and self.share == 2

    def _look_step(self, *tensors: Any) -> dict[str, Any]:
        batch = Batch(*tensors)
        parts, masks, scores = self._losses(batch, False)
        true, found = batch.masks == 1, masks[..., 0] > 0
        both, either = (
            tf.reduce_sum(tf.cast(op(true, found), tf.float32), axis=(1, 2))
            for op in (tf.logical_and, tf.logical_or)
        )
        known = batch.known[: tf.shape(batch.masks)[0]]
        ratios = both / tf.maximum(either, 1.0)
        parts["iou"] = tf.reduce_sum(ratios * known) / _atleast1(known)
        if self.share == 2:
            right = tf.cast((scores > 0) == (_centre(batch, scores) > 0), tf.float32)
            parts["accuracy"] = tf.reduce_sum(right * batch.known) / _atleast1(batch.known)
        return parts

    def epoch(self) -> dict[str, float]:
        epoch, rate = self.state.epochs, self.rate
        learned, looked = _Means(), _Means()
        for place, batch in enumerate(self.learned.batches(epoch), 1):
            learned.add(self._learn(*batch), batch)
            self.stepped(place, f"loss {learned.figures()['loss']:.3f}")
        spread = self.learned.batches(epoch, -(-self.steps // RECALIBRATED))
        self.recalibrate(batch.pixels for batch in spread)
        for batch in self.looked.batches(0):
            looked.add(self._look(*batch), batch)
        for pairs in (self.learned, self.looked):
            self.tell_lost(pairs.lost, pairs.names)
            pairs.lost.clear()
        figures = learned.figures()
        figures |= {f"val_{name}": value for name, value in looked.figures().items()}
        figures["learning_rate"] = rate
        return figures

    # ------------------------------------------------------------------------------ what is kept

    def picture(self) -> None:
        patch = self.looked.thing(0, 0, int(self.looked.things.learned[0]))
        pixels = scaled(patch.pixels[None], self.built.scale)
        masks, _ = self.network(pixels, training=False)
        inner = slice(BORDER, -BORDER)
        true, found = (
            nearest(mask.astype(np.uint16), (PATCH, PATCH))
            for mask in (patch.mask, np.asarray(masks)[0, ..., 0] > 0)
        )
        picture = pictures.sample_picture(
            patch.pixels[inner, inner], true, found, CLASSES, asked.palette(len(CLASSES))
        )
        checkpoints.write(self.pictured, draw.encode_png(picture))

    def finish(self) -> dict[str, float]:
        """Also a picture of the network's larger part."""
        picture = pictures.model_picture(self.network.get_layer("bottom_up"))
        checkpoints.write(self.folder / "model.png", draw.encode_png(picture))
        return super().finish()

    def bundle(self, metrics: Mapping[str, float]) -> Bundle:
        return Bundle(
            architecture=self.job.architecture.name,
            options=self.built.options,
            bands=self.data.bands,
            classes=CLASSES,
            colors=asked.palette(len(CLASSES)),
            scale=_said(self.built.scale),
            activation="sigmoid",
            size=(None, None),
            resize=False,
            job=portable(self.job),
            metrics=dict(metrics),
            inference={"pyramid": list(self.pyramid)},
        )


def optimizer_of(job: TrainJob, steps: int) -> Any:
    """The job's optimizer, or the published one where it names none."""
    if "optimizer" in job.model_fields_set:
        return optimizer(job, steps)
    name, rate = job.architecture.name, RATE * job.batch
    rates = keras.optimizers.schedules.PiecewiseConstantDecay(
        [steps * epochs for epochs in FALLS[name]], [rate, rate / 2, rate / 10]
    )
    return keras.optimizers.SGD(rates, momentum=MOMENTUM[name])


def _mask_loss(job: TrainJob) -> Any:
    named = job if "loss" in job.model_fields_set else job.model_copy(update={"loss": "bce"})
    return loss_of(named, {"from_logits": True, "ignore": VOID}, 1)


class _Means:
    """The mean of each figure over the patches that it is of, as far as they are known."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.counts: dict[str, float] = {}

    def add(self, figures: Mapping[str, Any], batch: Batch) -> None:
        """A batch's."""
        objects = float(batch.known[: len(batch.masks)].sum())
        for name, value in figures.items():
            count = objects if name in ("mask", "iou") else float(batch.known.sum())
            self.sums[name] = self.sums.get(name, 0.0) + float(value) * count
            self.counts[name] = self.counts.get(name, 0.0) + count

    def figures(self) -> dict[str, float]:
        """The loss, and each."""
        means = {name: value / max(self.counts[name], 1.0) for name, value in self.sums.items()}
        return {"loss": means["mask"] + SCORES * means.get("score", 0.0), **means}


def _centre(batch: Batch, scores: Any) -> Any:
    """1 for patches with an object, 0 for the others."""
    return tf.cast(tf.range(tf.shape(scores)[0]) < tf.shape(batch.masks)[0], tf.float32)


def _atleast1(weights: Any) -> Any:
    return tf.maximum(tf.reduce_sum(weights), 1.0)
