"""The model card: what a bundle does, what it was made of, how well it did, where not to trust it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from segengine.models.deepmask import INPUT
from segengine.training.bundle import Bundle

PROPOSERS = ("deepmask", "sharpmask")


def model_card(
    bundle: Bundle,
    *,
    parameters: int,
    frames: tuple[int, int],
    history: Mapping[str, Sequence[float]],
    notes: Sequence[str] = (),
) -> str:
    """Markdown. `frames`: of training and validation; `history`: figures by name, one an epoch."""
    job = bundle.job
    height, width = job["input"].get("size", (INPUT, INPUT))
    objects = bundle.architecture in ("mask-rcnn", *PROPOSERS)
    how = "frames resized to" if bundle.resize else "patches of"
    does = f"labels each pixel as one of: {', '.join(bundle.classes)}"
    knows = f"It knows {len(bundle.classes)} classes, and gives every pixel one of them."
    if bundle.architecture in PROPOSERS:
        does = "finds objects of any kind, each with a mask and a score"
        knows = "It gives no class, and finds what looks like the objects it learned from."
    elif objects:
        how = "frames resized to"
        does = f"finds each object that is one of: {', '.join(bundle.classes[1:])}"
        knows = f"It knows {len(bundle.classes)} classes, the first of which is all else."
    use = f"kind: {bundle.architecture}, weights" if objects else "kind: model, path"
    scale = ", ".join(f"{key} {value}" for key, value in bundle.scale.items())
    epochs = max((len(v) for v in history.values()), default=0)
    rows = [f"| {name} | {value:.4f} |" for name, value in bundle.metrics.items()]
    text = yaml.safe_dump(dict(job), sort_keys=False, default_flow_style=None, width=100)
    limits = [
        f"- {knows}",
        f"- It was trained on {bundle.bands}-band images, values scaled by {scale}: other sensors, "
        "seasons or resolutions need a check against truth first (`segengine evaluate`).",
        "- The figures are of its own validation part, not of an independent test set.",
        *(f"- {note}" for note in notes),
    ]
    return "\n".join(
        [
            f"# {job['name']}",
            "",
            f"A `{bundle.architecture}` of {parameters:,} parameters that {does}.",
            "",
            "## Use",
            "",
            "```yaml",
            f"segmenter: {{{use}: THIS_FOLDER}}",
            "```",
            "",
            "## Figures",
            "",
            f"After {epochs} epochs on {frames[0]:,} training and {frames[1]:,} validation frames, "
            f"{how} {height} x {width} pixels. `val_`: on the validation part.",
            "",
            "| figure | value |",
            "| --- | ---: |",
            *rows,
            "",
            "## Limits",
            "",
            *limits,
            "",
            "## The training job",
            "",
            "```yaml",
            text.rstrip(),
            "```",
            "",
        ]
    )


def summary_lines(metrics: Mapping[str, Any]) -> tuple[str, ...]:
    """Figures for a terminal, one a line."""
    width = max(map(len, metrics), default=0)
    return tuple(f"{name:<{width}}  {value:.4f}" for name, value in metrics.items())
