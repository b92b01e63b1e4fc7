"""Training of DeepMask and SharpMask: the loop, the losses, and what is kept; from instances to a bundle.

    architecture: {name: deepmask}
    architecture: {name: sharpmask}      # and `from: ...`, the bundle of a DeepMask

Half the patches of a step have an object in their middle, half have none. The loss is the mean over
pixels of the job's loss of the masks (the logistic one unless `loss` says otherwise) of the former,
and 1/32 of the logistic loss of the scores of all. A SharpMask that starts from a DeepMask keeps its
trunk and scores as they are and learns to refine masks, of objects only; without one it learns all.

As published (Pinheiro et al. 2015 and 2016, and their program), unless `optimizer` says otherwise:
SGD with a rate of 0.001 a patch for 32 patches a step, which falls twice; for DeepMask a momentum of
0.9 and a weight decay of 5e-4. They begin with a trunk that learned ImageNet and keep its
normalisation; from random weights normalisation is learned too (`train_norm`).

The folder is as of any training. `segmenter: {kind: model, path: OUT/bundle}` takes the bundle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
import yaml
from numpy.typing import NDArray

from segengine import draw, models, plugins
from segengine.ahead import one_ahead
from segengine.errors import JobError, MissingTruthError
from segengine.models.deepmask import BORDER, INPUT, PATCH
from segengine.models.sharpmask import fix_trunk
from segengine.training import _centred, checkpoints, pictures
from segengine.training._centred import Things
from segengine.training._objects import check_truth, check_unused
from segengine.training._scaling import nearest, scaled
from segengine.training.augment import augment
from segengine.training.bundle import Bundle, portable
from segengine.training.data import Data, order
from segengine.training.epochs import Epochs, Note, Outline, Update, named_start, start_from
from segengine.training.job import AugmentSpec, TrainJob
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
VOID = 255
_OWN = ("bands", "classes", "size", "weights", "activation")
_ORDER, _PLACE, _CHANGE = range(3)  # streams of random numbers


class Batch(NamedTuple):
    """Patches, those with an object first."""

    pixels: Any
    """(n, 192, 192, band) float32, scaled"""
    masks: Any
    """(m, y, x) int32 of the first m; 255 where the truth is not known"""
    known: Any
    """(n,) float32, 0 for a patch that teaches nothing"""


def check(job: TrainJob, data: Data) -> None:
    """Raise JobError naming what such a network cannot be trained with."""
    name = job.architecture.name
    check_truth(data, name)
    if "size" in job.input.model_fields_set and job.input.size != (INPUT, INPUT):
        raise JobError(
            f"input.size: the patches of {name} have {INPUT} x {INPUT} pixels; leave it out"
        )
    if "resize" in job.input.model_fields_set and job.input.resize is True:
        raise JobError(f"input.resize: {name} learns from patches of its own; leave it out")
    if job.augment.crop < 1 or job.augment.scale > 1:
        key = "crop" if job.augment.crop < 1 else "scale"
        raise JobError(
            f"augment.{key}: {name} moves and scales its patches by itself, objects to be found "
            "have one size in them; leave it out"
        )
    reason = f"the objects of {name} have no class"
    check_unused(job, {"class_weights": reason, "metrics": reason})


def build(job: TrainJob, data: Data, note: Note | None = None) -> keras.Model:
    """The network of a job, with the weights it starts from. Raises JobError."""
    check(job, data)
    given = job.architecture.options
    for key in ("classes", "activation"):
        if given.get(key) not in (None, 1):
            raise JobError(f"architecture.{key}: masks and scores are logits; leave it out")
    start = named_start(job)
    try:
        network = models.build(
            job.architecture.name,
            bands=data.bands,
            weights=given.get("weights"),
            **options_of(job, None if start is None else start[0]),
        )
    except JobError as error:
        raise JobError(f"architecture.{error}") from None
    if start is not None:
        line = _start(job, *start, network)
        if note is not None:
            note(line)
    if job.batch % share_of(network):
        raise JobError(f"batch: half of it are patches with an object, so even, not {job.batch}")
    return network


def options_of(job: TrainJob, start: Bundle | None) -> dict[str, Any]:
    """The architecture's options beyond bands, size and weights; the backbone is that of `from`."""
    given = job.architecture.options
    fresh = start is None and not any(given.get(key) for key in ("weights", "trunk"))
    ours: dict[str, Any] = {"train_norm": fresh}
    if start is not None and "backbone" in start.options:
        ours["backbone"] = start.options["backbone"]
    own = {name: value for name, value in given.items() if name not in _OWN}
    return {**ours, **own, "activation": None}


def _start(job: TrainJob, bundle: Bundle, source: keras.Model, network: keras.Model) -> str:
    if (job.architecture.name, bundle.architecture) != ("sharpmask", "deepmask"):
        return start_from(job, source, network)
    if _scale(job) != bundle.scale:
        shown = yaml.safe_dump(dict(bundle.scale), default_flow_style=True).strip()
        raise JobError(f"input.scale: the trunk of {job.from_} learned with {shown}; set it so")
    try:
        fix_trunk(network, source)
    except ValueError as error:
        raise JobError(f"from: {job.from_}: {error}") from None
    return f"trunk and scores are those of {job.from_}, and stay"


def _scale(job: TrainJob) -> dict[str, Any]:
    return job.input.scale.model_dump(mode="json", exclude_none=True)


def share_of(network: keras.Model) -> int:
    """Patches for each object: 2, one without it; 1 where scores are fixed, so that masks alone learn."""
    return 2 if network.get_layer("bottom_up").get_layer("score.1").trainable else 1


def outline(job: TrainJob, data: Data) -> Outline:
    """What a training would do. Raises JobError."""
    network = build(job, data)
    learned, looked = _things(data)
    share = share_of(network)
    _, steps = _epoch(job, learned, share)
    decided = [f"pyramid: {', '.join(f'{s:.3g}' for s in _centred.pyramid(learned.sides))}"]
    if "optimizer" not in job.model_fields_set:
        decided.append(said(optimizer_of(job, steps)))
    return Outline(network, steps, share * len(looked.learned), None, tuple(decided))


def _things(data: Data) -> tuple[Things, Things]:
    """The objects of both parts."""
    kinds = [i for i in range(len(data.classes)) if i not in plugins.background(data.classes)]
    learned = _centred.survey(data.train.frames, kinds, "training")
    return learned, _centred.survey(data.validation.frames, kinds, "validation")


def _epoch(job: TrainJob, things: Things, share: int) -> tuple[int, int]:
    """Objects and steps of an epoch; each object makes `share` patches."""
    count = -(-job.input.patches // share) if job.input.patches else len(things.learned)
    return count, -(-count * share // job.batch)


def drawn(
    things: Things, count: int, balance: bool, window: int, rng: np.random.Generator
) -> list[int]:
    """Objects of an epoch, in order: each class equally often, or each object.

    As many as there are are drawn without repetition unless classes are balanced.
    """
    learned = things.learned
    if balance:
        kinds = things.kinds[learned]
        share = 1.0 / np.bincount(kinds)[kinds]
        picked = np.sort(rng.choice(learned, count, p=share / share.sum()))
    else:
        whole, rest = divmod(count, len(learned))
        more = rng.choice(learned, rest, replace=False)
        picked = np.sort(np.concatenate([np.repeat(learned, whole), more]))
    return [int(picked[i]) for i in order(count, window, rng)]


class Training(Epochs):
    """A network, its data and how far it is."""

    def __init__(self, job: TrainJob, data: Data, update: Update, note: Note) -> None:
        super().__init__(job, data, update, note)
        self.model = self.network = build(job, data, note)
        self.side = int(self.network.outputs[0].shape[1])
        self.share = share_of(self.network)
        self.learned, self.looked = _things(data)
        self.pyramid = _centred.pyramid(self.learned.sides)
        self.count, self.steps = _epoch(job, self.learned, self.share)
        self.optimizer = optimizer_of(job, self.steps)
        self.optimizer.build(self.model.trainable_variables)
        self.mask_loss = _mask_loss(job)
        self.recalibrate = Recalibration(self.network)
        self.lost: dict[str, str] = {}
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

    # --------------------------------------------------------------------------------- batches

    def batches(self, epoch: int | None) -> Iterator[Batch]:
        """An epoch's batches, None: the validation part; the next is made while one is used."""
        if epoch is None:
            chosen = self.looked.learned.tolist()
        else:
            rng = np.random.default_rng([self.job.seed, epoch, _ORDER])
            balance, window = self.job.input.balance, self.job.window
            chosen = drawn(self.learned, self.count, balance, window, rng)
        size = self.job.batch // self.share
        firsts = range(0, len(chosen), size)
        yield from one_ahead(self._batch(epoch, i, chosen[i : i + size]) for i in firsts)

    def _batch(self, epoch: int | None, first: int, chosen: Sequence[int]) -> Batch:
        pairs = [self._patches(epoch, first + i, thing) for i, thing in enumerate(chosen)]
        patches = [pair[i] for i in range(self.share) for pair in pairs]
        return Batch(
            scaled(np.stack([p.pixels for p in patches]), self.job.input.scale),
            np.stack([p.mask for p in patches[: len(chosen)]]),
            np.array([p.known for p in patches], np.float32),
        )

    def _patches(self, epoch: int | None, place: int, thing: int) -> list[_Patch]:
        """An object's patch, and, where scores are learned, one of its frame without an object."""
        things = self.looked if epoch is None else self.learned
        index = things.frame_of(thing)
        frame = things.frames[index]
        seed = [self.job.seed, 0 if epoch is None else epoch + 1, place]
        rng = np.random.default_rng([*seed, _PLACE])
        spec = AugmentSpec() if epoch is None else self.job.augment
        at = _centred.centred(things.boxes[thing], None if epoch is None else rng)
        try:
            mask = _centred.mask_of(frame, int(things.rows[thing]), at)
            reason = ""
        except MissingTruthError as error:
            mask, reason = np.zeros((INPUT, INPUT), np.uint8), str(error)
        pixels, unread = _centred.pixels_of(frame, at, self.data.bands, self.job.input.scale)
        reason = reason or unread
        pixels, mask = augment(pixels, mask, spec, np.random.default_rng([*seed, _CHANGE]), 0)
        true = _centred.target(mask, self.side)
        if reason:
            self.lost[frame.ref.name] = reason
            true[:] = VOID
        found = [_Patch(pixels, true, not reason)]
        if self.share == 2:
            scales = self.pyramid[0], self.pyramid[-1]
            bare = _centred.nothing(things.around(index), frame.shape, scales, rng)
            place_of = at if bare is None else bare
            pixels, unread = _centred.pixels_of(
                frame, place_of, self.data.bands, self.job.input.scale
            )
            change = np.random.default_rng([*seed, _CHANGE, 1])
            pixels, _ = augment(pixels, np.zeros((INPUT, INPUT), np.uint8), spec, change, 0)
            found.append(_Patch(pixels, true, bare is not None and not (reason or unread)))
        return found

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
        for place, batch in enumerate(self.batches(epoch), 1):
            learned.add(self._learn(*batch), len(batch.pixels))
            self.stepped(place, f"loss {learned.figures()['loss']:.3f}")
        every = -(-self.steps // RECALIBRATED)
        self.recalibrate(
            batch.pixels for i, batch in enumerate(self.batches(epoch)) if i % every == 0
        )
        for batch in self.batches(None):
            looked.add(self._look(*batch), len(batch.pixels))
        for name, reason in self.lost.items():
            self.note(f"{name} takes no part: {reason}")
        figures = learned.figures()
        figures |= {f"val_{name}": value for name, value in looked.figures().items()}
        figures["learning_rate"] = rate
        return figures

    # ------------------------------------------------------------------------------ what is kept

    def picture(self) -> None:
        (patch, *_) = self._patches(None, 0, int(self.looked.learned[0]))
        pixels = scaled(patch.pixels[None], self.job.input.scale)
        masks, _ = self.network(pixels, training=False)
        inner = slice(BORDER, -BORDER)
        true, found = (
            nearest(mask.astype(np.uint16), (PATCH, PATCH))
            for mask in (patch.mask, np.asarray(masks)[0, ..., 0] > 0)
        )
        picture = pictures.sample_picture(
            patch.pixels[inner, inner], true, found, CLASSES, plugins.palette(len(CLASSES))
        )
        checkpoints.write(self.pictured, draw.encode_png(picture))

    def finish(self) -> dict[str, float]:
        """Also a picture of the network's larger part."""
        picture = pictures.model_picture(self.network.get_layer("bottom_up"))
        checkpoints.write(self.folder / "model.png", draw.encode_png(picture))
        return super().finish()

    def bundle(self, metrics: Mapping[str, float]) -> Bundle:
        start = named_start(self.job)
        options = options_of(self.job, None if start is None else start[0])
        return Bundle(
            architecture=self.job.architecture.name,
            options={k: v for k, v in options.items() if k not in ("train_norm", "trunk")},
            bands=self.data.bands,
            classes=CLASSES,
            colors=plugins.palette(len(CLASSES)),
            scale=_scale(self.job),
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
    return loss_of(named, {"from_logits": True, "ignore": VOID})


class _Means:
    """The mean of each figure over patches."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.count = 0

    def add(self, figures: Mapping[str, Any], count: int) -> None:
        """A batch's."""
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value) * count
        self.count += count

    def figures(self) -> dict[str, float]:
        """The loss, and each."""
        means = {name: value / self.count for name, value in self.sums.items()}
        return {"loss": means["mask"] + SCORES * means.get("score", 0.0), **means}


@dataclass(frozen=True, slots=True)
class _Patch:
    pixels: NDArray[np.float32]
    """(192, 192, band), as read"""
    mask: NDArray[np.int32]
    known: bool


def _centre(batch: Batch, scores: Any) -> Any:
    """1 for patches with an object, 0 for the others."""
    return tf.cast(tf.range(tf.shape(scores)[0]) < tf.shape(batch.masks)[0], tf.float32)


def _atleast1(weights: Any) -> Any:
    return tf.maximum(tf.reduce_sum(weights), 1.0)
