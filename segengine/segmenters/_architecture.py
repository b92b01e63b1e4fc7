"""Segmenters named after an architecture of ours: its name, and weights for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from segengine.engines import Precision
from segengine.segmenters import model
from segengine.segmenters._augment import Augment, Augmented
from segengine.segmenters._files import EngineName
from segengine.segmenters._network import Activation, Network


def factory(architecture: str, module: str) -> Callable[..., Network | Augmented]:
    """The factory of an architecture's segmenter, which is `create` of a module."""

    def create(
        weights: str,
        bands: Sequence[int] | int | None = None,
        scale: Mapping[str, Any] | None = None,
        classes: Sequence[str] | None = None,
        activation: Activation | None = None,
        window: int | model.Auto = "auto",
        overlap: float = 0.5,
        batch: int | model.Auto = "auto",
        engine: EngineName | None = None,
        precision: Precision = "float32",
        threshold: float = 0.5,
        resize: Sequence[int] | None = None,
        crf: bool | Mapping[str, Any] = False,
        options: Mapping[str, Any] | None = None,
        temperature: float | Mapping[str, float] | None = None,
        augment: Augment | None = None,
    ) -> Network | Augmented:
        """weights: a `.weights.h5` file, or a bundle, which knows the rest; see `model`."""
        try:
            found = model.create(
                weights,
                bands,
                scale,
                classes,
                activation,
                "nhwc",
                window,
                overlap,
                batch,
                engine,
                precision,
                threshold,
                resize,
                crf,
                architecture,
                options,
                temperature,
                augment,
            )
        except ValueError as error:
            raise ValueError(str(error).replace("path: ", "weights: ", 1)) from error
        assert isinstance(found, Network | Augmented)
        return found

    create.__module__, create.__qualname__ = module, "create"
    return create
