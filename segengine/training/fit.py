"""A training from its job to its bundle, one epoch after the other; goes on where it ended.

    out/checkpoint.npz   after each epoch: weights, optimizer, history   (best.npz: early stopping)
    out/pictures/        a validation sample before the first and after each epoch
    out/tensorboard/     the figures, for TensorBoard
    out/history.png, out/model.png
    out/bundle/          what `segmenter: {kind: model, path: ...}` takes

A step draws nothing from a global state that a checkpoint does not hold, and TensorFlow's kernels
are told to be deterministic: the same job on the same machine, with as many threads, gives the same
weights, bit for bit, also when it is killed and run again.
"""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from segengine import draw, models, registry
from segengine.errors import JobError
from segengine.fingerprint import digest
from segengine.models._context import context
from segengine.progress import Progress
from segengine.training import checkpoints, pictures
from segengine.training.bundle import Bundle, load_bundle, save_bundle, transfer
from segengine.training.data import Data, Samples, class_counts, open_data
from segengine.training.epochs import Epochs
from segengine.training.figures import Figure
from segengine.training.job import TrainJob
from segengine.training.modelcard import model_card, summary_lines
from segengine.training.objective import Trainee, listed, objective_of
from segengine.training.recalibration import Recalibration

Update = Callable[[Progress], None]
Note = Callable[[str], None]
RECALIBRATED = 64
"""Most batches of an epoch, spread over it, for the statistics of batch normalisation."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training gave."""

    name: str
    out: str
    bundle: str
    epochs: int
    """Epochs done, by all runs together."""
    seconds: float
    """Of this run."""
    metrics: Mapping[str, float]
    """Figures of the epoch whose weights the bundle holds."""

    def lines(self) -> tuple[str, ...]:
        """Text for a terminal."""
        done = f"trained {self.name}: {self.epochs} epochs, {self.seconds:.0f} s in this run"
        return (done, *summary_lines(self.metrics), f"bundle {self.bundle}")


def train(job: TrainJob, update: Update | None = None, note: Note | None = None) -> Trained:
    """Train a network. Raises JobError before the first step, SegengineError after it."""
    began = time.monotonic()
    update, note = update or (lambda _: None), note or (lambda _: None)
    if job.architecture.name == "mask-rcnn":
        from segengine.training import maskrcnn

        return maskrcnn.train(job, update, note)
    keras.utils.set_random_seed(job.seed)
    _be_deterministic()
    data = open_data(job)
    try:
        Path(job.out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JobError(f"out: {job.out} cannot be made a folder: {error.strerror}") from None
    for left_out in data.notes:
        note(left_out)
    run = _Training(job, data, update, note)
    run.train()
    return Trained(
        job.name,
        job.out,
        str(run.folder / "bundle"),
        run.state.epochs,
        time.monotonic() - began,
        run.finish(),
    )


def _be_deterministic() -> None:
    import tensorflow as tf

    tf.config.experimental.enable_op_determinism()


class _Training(Epochs):
    """A network, its data and how far it is."""

    def __init__(self, job: TrainJob, data: Data, update: Update, note: Note) -> None:
        self.job, self.data, self.update, self.note = job, data, update, note
        self.folder = Path(job.out)
        self.looked = Samples(data, job, None)
        self.network = build(job, data)
        made = loss(job, data)
        self.model = Trainee(self.network, objective_of(job.architecture.name, made))
        if job.from_ is not None:
            self._transfer(job.from_)
        steps = len(Samples(data, job, 0))
        self.model.compile(
            optimizer=optimizer(job, steps),
            metrics=[Figure(name, len(data.classes)) for name in job.metrics],
            jit_compile="auto" if made.supports_jit else False,
        )
        self.recalibrate = Recalibration(self.network)
        self.model.optimizer.build(self.model.trainable_variables)
        self.state = checkpoints.State(_digest(job, data))
        self.resume()

    @property
    def variables(self) -> list[Any]:
        return [*self.model.variables, *self.model.optimizer.variables]

    def _transfer(self, folder: str) -> None:
        try:
            _, source = load_bundle(folder)
        except JobError as error:
            raise JobError(f"from: {error}") from None
        copied, layers = transfer(source, self.network)
        if not copied:
            raise JobError(f"from: {folder}: not one layer has the shapes of this network's")
        self.note(f"{copied} of {layers} layers start from {folder}, the others anew")

    def epoch(self) -> dict[str, float]:
        epoch = self.state.epochs
        samples = Samples(self.data, self.job, epoch)
        report = _Report(self.update, epoch, self.job.epochs, len(samples))
        history = self.model.fit(
            samples,
            initial_epoch=epoch,
            epochs=epoch + 1,
            shuffle=False,  # the order is the samples' own
            verbose=0,
            callbacks=[report],
        ).history
        spread = range(0, len(samples), -(-len(samples) // RECALIBRATED))
        self.recalibrate(samples[i][0] for i in spread)
        looked = self.model.evaluate(self.looked, verbose=0, return_dict=True)
        for lost in (samples.lost, self.looked.lost):
            for name, reason in lost.items():
                self.note(f"{name} takes no part: {reason}")
        figures = {name: float(values[0]) for name, values in history.items()}
        figures |= {f"val_{name}": float(value) for name, value in looked.items()}
        figures["learning_rate"] = float(np.asarray(self.model.optimizer.learning_rate))
        return figures

    def picture(self) -> None:
        place = _shown(self.looked)
        read, sample = self.looked.sample(place), self.looked.prepared(place)
        logits = listed(self.model(sample.pixels[None], training=False))[0]
        found = labels_of(np.asarray(logits))[0]
        picture = pictures.sample_picture(
            read.pixels, read.labels, found, self.data.classes, self.data.colors
        )
        checkpoints.write(self.pictured, draw.encode_png(picture))

    def finish(self) -> dict[str, float]:
        """Pictures, card and bundle; the figures of the bundle's weights."""
        metrics, history = self.take_best(), self.state.history
        for name, picture in (
            ("history.png", pictures.history_picture(history)),
            ("model.png", pictures.model_picture(self.network)),
        ):
            checkpoints.write(self.folder / name, draw.encode_png(picture))
        bundle = bundle_of(self.job, self.data, metrics)
        card = model_card(
            bundle,
            parameters=self.network.count_params(),
            frames=(len(self.data.train.frames), len(self.data.validation.frames)),
            history=history,
        )
        save_bundle(self.folder / "bundle", bundle, self.network, card)
        return metrics


class _Report(keras.callbacks.Callback):
    """Steps of all epochs as progress."""

    def __init__(self, update: Update, epoch: int, epochs: int, steps: int) -> None:
        super().__init__()
        self._update, self._epoch, self._epochs, self._steps = update, epoch, epochs, steps

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Keras' hook after each step."""
        shown = ", ".join(f"{name} {value:.3f}" for name, value in (logs or {}).items())
        self._update(
            Progress(
                "train",
                self._epoch * self._steps + batch + 1,
                self._epochs * self._steps,
                message=f"epoch {self._epoch + 1} of {self._epochs}: {shown}",
            )
        )


def _shown(samples: Samples) -> int:
    """The sample in the pictures: of patches, the first of those with most classes."""
    cells = samples.part.cells
    return 0 if cells is None else int(np.argmax((cells.counts > 0).sum(axis=1)))


def labels_of(logits: NDArray[Any]) -> NDArray[np.uint16]:
    """(n, y, x, class) scores to labels (n, y, x); of one channel, 1 where the logit is above 0."""
    if logits.shape[-1] == 1:
        return (logits[..., 0] > 0).astype(np.uint16)
    return logits.argmax(axis=-1).astype(np.uint16)


# ------------------------------------------------------------------------------ network and loss


def outputs(job: TrainJob, data: Data) -> int:
    """Channels of the network: one a class, or one for two classes where the job says `classes: 1`.

    Raises JobError for any other number.
    """
    wanted = job.architecture.options.get("classes", len(data.classes))
    if wanted != len(data.classes) and (wanted, len(data.classes)) != (1, 2):
        raise JobError(
            f"architecture.classes: {wanted} for {len(data.classes)} classes of the truth "
            f"({', '.join(data.classes[:8])}); leave it out"
        )
    return int(wanted)


def options(job: TrainJob) -> dict[str, Any]:
    """The architecture's options beyond bands, classes, size and weights; the output is logits."""
    own = {"bands", "classes", "size", "weights"}
    given = {name: v for name, v in job.architecture.options.items() if name not in own}
    return {**given, "activation": None}


def build(job: TrainJob, data: Data) -> Any:
    """The network of a job; its first output is logits (n, y, x, channel). Raises JobError."""
    name, channels, given = job.architecture.name, outputs(job, data), job.architecture.options
    if given.get("activation") is not None:
        raise JobError("architecture.activation: a network learns as logits; leave it out")
    unfit = JobError(
        f"architecture.name: {name} gives no score for each pixel and class, which is what can be "
        "trained here; choose another, such as unet"
    )
    try:
        network = models.build(
            name,
            bands=data.bands,
            classes=channels,
            size=job.input.size,
            weights=given.get("weights"),
            **options(job),
        )
    except JobError as error:
        key = str(error).partition(":")[0]
        if key in ("classes", "activation"):  # what every network of pixels takes
            raise unfit from None
        raise JobError(f"{'input' if key == 'size' else 'architecture'}.{error}") from None
    if tuple(network.outputs[0].shape[1:]) != (*job.input.size, channels):
        raise unfit
    return network


def loss(job: TrainJob, data: Data) -> Any:
    """The Keras loss of a job, over logits, void ignored, classes weighted. Raises JobError."""
    given = job.loss
    if isinstance(given, list):
        name, extra = "compound", {"losses": given}
    elif isinstance(given, dict):
        name, extra = given["loss"], {k: v for k, v in given.items() if k != "loss"}
    else:
        name, extra = given, {}
    ours: dict[str, Any] = {"from_logits": True, "ignore": data.void}
    weights = class_weights(job, data)
    if weights is not None:
        ours["class_weights"] = weights
    takes = inspect.signature(registry.load("losses", name)).parameters
    if weights is not None and "class_weights" not in takes:
        raise JobError(f"class_weights: the loss {name} takes none")
    try:
        made = registry.create(
            "losses", name, {k: v for k, v in ours.items() if k in takes} | extra
        )
    except JobError as error:
        raise JobError(f"loss.{error}") from None
    return made.keras()


def class_weights(job: TrainJob, data: Data) -> list[float] | None:
    """Weight of each class; None: all equal.

    `auto`: pixels / (classes * pixels of the class), over the classes that occur in training (King &
    Zeng 2001, "Logistic regression in rare events data"), so that each weighs the same in all.
    """
    if job.class_weights == "none":
        return None
    if job.class_weights != "auto":
        given = list(job.class_weights)
        if len(given) != len(data.classes):
            raise JobError(f"class_weights: {len(given)} weights for {len(data.classes)} classes")
        return given
    counts = class_counts(data, job)
    if not counts.any():
        raise JobError("truth: not one pixel of the training frames has a class")
    present = counts > 0
    weights = counts.sum() / (present.sum() * np.maximum(counts, 1))
    return [float(w) if p else 0.0 for w, p in zip(weights, present, strict=True)]


def optimizer(job: TrainJob, steps: int) -> Any:
    """The Keras optimizer of a job whose epochs have so many steps."""
    spec = job.optimizer
    rate: Any = spec.learning_rate
    schedules = keras.optimizers.schedules
    if spec.schedule == "cosine":
        rate = schedules.CosineDecay(rate, steps * job.epochs)
    elif spec.schedule != "constant":
        rate = schedules.ExponentialDecay(
            rate, steps * spec.every, spec.decay, staircase=spec.schedule == "step"
        )
    if spec.name == "sgd":
        return keras.optimizers.SGD(rate, momentum=spec.momentum)
    if spec.name == "adamw":
        return keras.optimizers.AdamW(rate, weight_decay=spec.weight_decay)
    return keras.optimizers.Adam(rate)


# ------------------------------------------------------------------------------------ what is kept


def bundle_of(job: TrainJob, data: Data, metrics: Mapping[str, float]) -> Bundle:
    """What `bundle.json` says of a training."""
    found = Bundle(
        architecture=job.architecture.name,
        options=options(job),
        bands=data.bands,
        classes=data.classes,
        colors=data.colors,
        scale=job.input.scale.model_dump(mode="json", exclude_none=True),
        activation="sigmoid" if outputs(job, data) == 1 else "softmax",
        size=job.input.size,
        resize=job.input.resize is True,
        job=_portable(job),
        metrics=dict(metrics),
    )
    if found.resize:
        return found
    try:  # patches are windows of larger scenes: any size, where the architecture allows
        anywhere = replace(found, size=(None, None))
        view = context(anywhere.build())
    except (JobError, ValueError, TypeError):
        return found
    # one that looks at all of its window knows windows of this size only
    return found if view is None else anywhere


def _portable(job: TrainJob) -> dict[str, Any]:
    """The job with paths as seen from the folder that `out` lies in: of no machine in particular."""
    base = os.path.dirname(job.out)

    def relative(value: Any) -> Any:
        if isinstance(value, str) and os.path.isabs(value):
            return os.path.relpath(value, base)
        if isinstance(value, dict):
            return {k: relative(v) for k, v in value.items()}
        return [relative(v) for v in value] if isinstance(value, list) else value

    found: dict[str, Any] = relative(job.as_json())
    return found


def _digest(job: TrainJob, data: Data) -> str:
    """Of all that the weights follow from; more epochs of an unscheduled job go on from its last."""
    known = job.as_json()
    for key in ("name", "out"):
        known.pop(key)
    for key in ("source", "truth"):
        known.get(key, {}).pop("paths", None)
    if job.optimizer.schedule != "cosine":
        known.pop("epochs")
    frames = [
        [f.ref.name, f.ref.fingerprint, f.truth.fingerprint]
        for part in (data.train, data.validation)
        for f in (*part.frames,)
    ]
    return digest([known, frames, list(data.classes), data.bands])
