"""A training as epochs that are committed: what every trainer goes on from, whatever it trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from segengine.errors import JobError, SegengineError
from segengine.training import checkpoints
from segengine.training._tensorboard import EventWriter
from segengine.training.job import TrainJob


class Epochs(ABC):
    """Runs the epochs that are left; each is committed, and a kill costs at most one.

    A trainer sets the fields and gives an epoch's work; `resume` comes when all variables are built.
    """

    job: TrainJob
    folder: Path
    note: Any
    model: Any
    """The `keras.Model` whose variables are kept."""
    state: checkpoints.State

    @property
    @abstractmethod
    def variables(self) -> list[Any]:
        """All that a resumed training needs: the model's, then the optimizer's."""

    @abstractmethod
    def epoch(self) -> dict[str, float]:
        """Train one epoch; its figures, `val_loss` among them."""

    @abstractmethod
    def picture(self) -> None:
        """Draw `pictured`: what the network makes of a sample now."""

    @property
    def pictured(self) -> Path:
        """The picture of the latest epoch."""
        return self.folder / "pictures" / f"epoch-{self.state.epochs:03d}.png"

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
