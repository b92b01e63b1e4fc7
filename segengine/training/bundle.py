"""Bundles as training writes and starts from them: the network with its weights, and back."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from segengine.errors import JobError
from segengine.models._build import leaves
from segengine.networks.bundles import (
    META,
    WEIGHTS,
    Bundle,
    check_architecture,
    is_bundle,
    load_weights,
    opened,
)
from segengine.training.job import TrainJob

__all__ = ["Bundle", "load_bundle", "portable", "save_bundle", "transfer"]
CARD = "README.md"


def save_bundle(folder: Path, bundle: Bundle, model: Any, card: str) -> None:
    """Write a bundle with its model card; one that is there is replaced as a whole."""
    bare = bundle.build()  # of a compiled network, Keras would save the optimizer too
    bare.set_weights(model.get_weights())
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as made:
        fresh, old = Path(made) / "new", Path(made) / "old"
        fresh.mkdir()
        (fresh / META).write_text(bundle.to_json(), encoding="utf-8")
        (fresh / CARD).write_text(card, encoding="utf-8")
        bare.save_weights(fresh / WEIGHTS[0])
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
        shutil.rmtree(old, ignore_errors=True)


def load_bundle(path: str | Path, asked: str | None = None) -> tuple[Bundle, Any]:
    """A bundle, a folder or a zip, and its network with weights.

    asked: the architecture that the job names. Raises JobError where it is none, is damaged, or names
    code that the job does not.
    """
    path = Path(path)
    if not is_bundle(path):
        raise JobError(f"{path}: is no bundle: it has no {META}")
    try:
        with opened(path) as (bundle, file):
            check_architecture(bundle, asked)
            return bundle, _loaded(bundle, file)
    except (OSError, ValueError, JobError) as error:
        raise JobError(f"{path}: {error}") from None


def _loaded(bundle: Bundle, file: Path) -> Any:
    model = bundle.build()
    try:
        load_weights(model, file)
    except ValueError as error:
        raise ValueError(f"{file.name} {error}") from error
    return model


def transfer(source: Any, model: Any) -> tuple[int, int]:
    """Copy the weights of every layer whose shapes fit; (layers copied, layers with weights).

    Networks of one architecture pair layer by layer, in order; others by name.
    """
    ours, theirs = list(leaves(model)), list(leaves(source))
    if len(ours) == len(theirs):
        pairs = list(zip(theirs, ours, strict=True))
    else:
        named = {layer.name: layer for layer in theirs}
        pairs = [(named[layer.name], layer) for layer in ours if layer.name in named]
    copied = 0
    for old, new in pairs:
        if [w.shape for w in old.weights] == [w.shape for w in new.weights]:
            new.set_weights(old.get_weights())
            copied += 1
    return copied, len(ours)


def portable(job: TrainJob) -> dict[str, Any]:
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
