"""Training of networks that label each pixel: any loss, any source with truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from segengine import models
from segengine.errors import JobError
from segengine.models._context import context
from segengine.pictures import draw
from segengine.training import checkpoints, pictures
from segengine.training.bundle import Bundle, portable
from segengine.training.data import Data, Samples, class_counts
from segengine.training.epochs import Epochs, Note, Outline, Update, named_start, start_from
from segengine.training.figures import Figure
from segengine.training.job import TrainJob
from segengine.training.objective import Trainee, listed, loss_of, objective_of
from segengine.training.optimizers import optimizer
from segengine.training.recalibration import Recalibration

RECALIBRATED = 64
"""Most batches of an epoch, spread over it, for the statistics of batch normalisation."""


class Training(Epochs):
    """A network, its data and how far it is."""

    def __init__(self, job: TrainJob, data: Data, update: Update, note: Note) -> None:
        super().__init__(job, data, update, note)
        self.looked = Samples(data, job, None)
        self.network = build(job, data)
        made = loss(job, data)
        self.model = Trainee(self.network, objective_of(job.architecture.name, made))
        if (start := named_start(job)) is not None:
            note(start_from(job, start[1], self.network))
        self.steps = len(Samples(data, job, 0))
        self.optimizer = optimizer(job, self.steps)
        self.model.compile(
            optimizer=self.optimizer,
            metrics=[Figure(name, len(data.classes)) for name in job.metrics],
            jit_compile="auto" if made.supports_jit else False,
        )
        self.recalibrate = Recalibration(self.network)
        self.optimizer.build(self.model.trainable_variables)
        self.resume()

    def epoch(self) -> dict[str, float]:
        epoch = self.state.epochs
        samples = Samples(self.data, self.job, epoch)
        history = self.model.fit(
            samples,
            initial_epoch=epoch,
            epochs=epoch + 1,
            shuffle=False,  # the order is the samples' own
            verbose=0,
            callbacks=[_Report(self.stepped)],
        ).history
        spread = range(0, len(samples), -(-len(samples) // RECALIBRATED))
        self.recalibrate(samples[i][0] for i in spread)
        looked = self.model.evaluate(self.looked, verbose=0, return_dict=True)
        for part in (samples, self.looked):
            self.tell_lost(part.lost, {part.part.frames[i].ref.name for i, _, _ in part.picks})
        figures = {name: float(values[0]) for name, values in history.items()}
        figures |= {f"val_{name}": float(value) for name, value in looked.items()}
        figures["learning_rate"] = self.rate
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

    def bundle(self, metrics: Mapping[str, float]) -> Bundle:
        return bundle_of(self.job, self.data, metrics)

    def finish(self) -> dict[str, float]:
        """Also a picture of the network."""
        picture = pictures.model_picture(self.network)
        checkpoints.write(self.folder / "model.png", draw.encode_png(picture))
        return super().finish()


class _Report(keras.callbacks.Callback):
    """Steps of an epoch as progress."""

    def __init__(self, stepped: Callable[[int, str], None]) -> None:
        super().__init__()
        self._stepped = stepped

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Keras' hook after each step."""
        shown = ", ".join(f"{name} {value:.3f}" for name, value in (logs or {}).items())
        self._stepped(batch + 1, shown)


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


def outline(job: TrainJob, data: Data) -> Outline:
    """What a training would do. Raises JobError."""
    network, weights = build(job, data), class_weights(job, data)
    loss(job, data)
    return Outline(
        network,
        len(Samples(data, job, 0)),
        len(Samples(data, job, None).picks),
        None if weights is None else tuple(weights),
    )


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
    ours: dict[str, Any] = {"from_logits": True, "ignore": data.void}
    weights = class_weights(job, data)
    if weights is not None:
        ours["class_weights"] = weights
    return loss_of(job, ours, outputs(job, data))


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
        job=portable(job),
        metrics=dict(metrics),
        resolution=data.resolution,
        band_names=data.band_names,
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
