"""A training as epochs that are committed: what every trainer goes on from, whatever it trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from segengine.errors import JobError, SegengineError
from segengine.fingerprint import digest
from segengine.pictures import draw
from segengine.progress import Progress
from segengine.training import checkpoints, pictures
from segengine.training._tensorboard import EventWriter
from segengine.training.bundle import Bundle, load_bundle, save_bundle, transfer
from segengine.training.data import Data
from segengine.training.job import TrainJob
from segengine.training.modelcard import model_card

Update = Callable[[Progress], None]
Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Outline:
    """What a training would do, before its first step."""

    network: Any
    """The `keras.Model`, as it starts."""
    steps: int
    """An epoch."""
    looked: int
    """Samples of the validation part."""
    class_weights: tuple[float, ...] | None = None
    """One a class; None: all equal."""
    decided: tuple[str, ...] = ()
    """What the architecture decides where the job does not say, a line each."""


def named_start(job: TrainJob) -> tuple[Bundle, Any] | None:
    """The bundle that a job starts from, and its network; None: it names none. Raises JobError."""
    if job.from_ is None:
        return None
    try:
        return load_bundle(job.from_, job.architecture.name)
    except JobError as error:
        raise JobError(f"from: {error}") from None


def start_from(job: TrainJob, source: Any, network: Any) -> str:
    """Copy the layers of `from` that fit; a line that says so. Raises JobError where none does."""
    copied, layers = transfer(source, network)
    if not copied:
        raise JobError(f"from: {job.from_}: not one layer has the shapes of this network's")
    return f"{copied} of {layers} layers start from {job.from_}, the others anew"


class Epochs(ABC):
    """Runs the epochs that are left; each is committed, and a kill costs at most one.

    A trainer builds `network`, `model`, `optimizer` and `steps`, calls `resume` when all variables
    are there, and gives an epoch's work.
    """

    network: Any
    """The `keras.Model` that the bundle holds."""
    model: Any
    """The `keras.Model` whose variables are kept: the network, or what trains it."""
    optimizer: Any
    steps: int
    """An epoch."""

    def __init__(self, job: TrainJob, data: Data, update: Update, note: Note) -> None:
        self.job, self.data, self.update, self.note = job, data, update, note
        self.folder = Path(job.out)
        self.state = checkpoints.State(digest_of(job, data))

    @property
    def variables(self) -> list[Any]:
        """All that a resumed training needs: the model's, then the optimizer's."""
        return [*self.model.variables, *self.optimizer.variables]

    @abstractmethod
    def epoch(self) -> dict[str, float]:
        """Train one epoch; its figures, `val_loss` among them."""

    @abstractmethod
    def picture(self) -> None:
        """Draw `pictured`: what the network makes of a sample now."""

    @abstractmethod
    def bundle(self, metrics: Mapping[str, float]) -> Bundle:
        """What the bundle says."""

    @property
    def pictured(self) -> Path:
        """The picture of the latest epoch."""
        return self.folder / "pictures" / f"epoch-{self.state.epochs:03d}.png"

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        return float(np.asarray(self.optimizer.learning_rate))

    def tell_lost(self, lost: Mapping[str, str], seen: Collection[str]) -> None:
        """Note frames that could not be read, with the reason; `seen` are the names of all.

        Raises SegengineError where nothing is left to learn from.
        """
        for name, reason in lost.items():
            self.note(f"{name} takes no part: {reason}")
        if seen and lost.keys() >= set(seen):
            name, reason = next(iter(lost.items()))
            raise SegengineError(
                f"source.paths: none of {len(set(seen)):,} frames can be learned from; {name}: {reason}"
            )

    def stepped(self, done: int, text: str) -> None:
        """Tell of a step: how many of this epoch are done, and its figures."""
        at, epochs = self.state.epochs, self.job.epochs
        message = f"epoch {at + 1} of {epochs}: {text}"
        self.update(Progress("train", at * self.steps + done, epochs * self.steps, message=message))

    def resume(self) -> None:
        """Go on from the checkpoint, where there is one. Raises JobError where it is another's."""
        found = checkpoints.load(self.folder, checkpoints.FILE)
        if found is None:
            return
        state, arrays = found
        file = self.folder / checkpoints.FILE
        if state.digest != self.state.digest:
            raise JobError(
                f"out: {file} is of another job or other data; choose another folder, or delete it"
            )
        checkpoints.restore(file, self.variables, arrays)
        self.state = state
        self.note(f"goes on after epoch {state.epochs} of {self.job.epochs}")

    @property
    def done(self) -> bool:
        """No epoch is left, or none has been better for long enough."""
        stop = self.job.early_stopping
        waited = self.state.epochs - self.state.best
        return self.state.epochs >= self.job.epochs or (
            stop is not None and self.state.epochs > 0 and waited >= stop.patience
        )

    def train(self) -> None:
        """All epochs that are left."""
        if not self.pictured.exists():  # also where a kill came before it was drawn
            self.picture()
        with EventWriter(self.folder / "tensorboard") as events:
            while not self.done:
                figures = self.epoch()
                if not np.isfinite(figures["loss"]):
                    raise SegengineError(
                        f"optimizer.learning_rate: the loss is {figures['loss']} in epoch "
                        f"{self.state.epochs + 1}; try a lower one"
                    )
                self._commit(figures)
                for name, value in figures.items():
                    events.scalar(name, value, self.state.epochs)
                self.picture()

    def _commit(self, figures: Mapping[str, float]) -> None:
        before = self.state.history.get("val_loss", [])
        best = self.state.best
        if figures["val_loss"] < min(before, default=np.inf):
            best = self.state.epochs + 1
        names = dict.fromkeys([*self.state.history, *figures])
        history = {n: [*self.state.history.get(n, []), figures[n]] for n in names}
        self.state = replace(self.state, epochs=self.state.epochs + 1, history=history, best=best)
        if self.job.early_stopping is not None and best == self.state.epochs:
            # First of the two: a kill between them makes the same weights again.
            checkpoints.save(self.folder, checkpoints.BEST, self.state, list(self.model.variables))
        checkpoints.save(self.folder, checkpoints.FILE, self.state, self.variables)

    def take_best(self) -> dict[str, float]:
        """Restore the best epoch's weights, where the job stops early; the figures of what is kept."""
        at = self.state.epochs
        if self.job.early_stopping is not None and self.state.best:
            file = self.folder / checkpoints.BEST
            found = checkpoints.load(self.folder, checkpoints.BEST)
            if found is None:
                raise SegengineError(f"{file}: is gone; train anew")
            at = found[0].epochs
            checkpoints.restore(file, list(self.model.variables), found[1])
        history = self.state.history
        return {n: v[at - 1] for n, v in history.items() if n != "learning_rate"}

    def finish(self) -> dict[str, float]:
        """Curves, card and bundle; the figures of the bundle's weights."""
        metrics, history = self.take_best(), self.state.history
        curves = pictures.history_picture(history)
        checkpoints.write(self.folder / "history.png", draw.encode_png(curves))
        bundle = self.bundle(metrics)
        card = model_card(
            bundle,
            parameters=self.network.count_params(),
            frames=(len(self.data.train.frames), len(self.data.validation.frames)),
            history=history,
        )
        save_bundle(self.folder / "bundle", bundle, self.network, card)
        return metrics


def digest_of(job: TrainJob, data: Data) -> str:
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
