"""The model card: what a bundle does, what it was made of, how well it did, where not to trust it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from segengine.training.bundle import Bundle


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
    height, width = job["input"]["size"]
    how = "frames resized to" if bundle.resize else "patches of"
    scale = ", ".join(f"{key} {value}" for key, value in bundle.scale.items())
    epochs = max((len(v) for v in history.values()), default=0)
    rows = [f"| {name} | {value:.4f} |" for name, value in bundle.metrics.items()]
    text = yaml.safe_dump(dict(job), sort_keys=False, default_flow_style=None, width=100)
    limits = [
        f"- It knows {len(bundle.classes)} classes, and gives every pixel one of them.",
        f"- It was trained on {bundle.bands}-band images, values scaled by {scale}: other sensors, "
        "seasons or resolutions need a check against truth first (`segengine evaluate`).",
        "- The figures are of its own validation part, not of an independent test set.",
        *(f"- {note}" for note in notes),
    ]
    return "\n".join(
        [
            f"# {job['name']}",
            "",
            f"A `{bundle.architecture}` of {parameters:,} parameters that labels each pixel as one "
            f"of: {', '.join(bundle.classes)}.",
            "",
            "## Use",
            "",
            "```yaml",
            "segmenter: {kind: model, path: THIS_FOLDER}",
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
