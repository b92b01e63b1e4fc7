"""What a frozen encoder loses when it is fed pixels scaled to [0, 1] and knows them from [-1, 1].

The tutorial does so with MobileNetV2. Its published weights need a download; here the encoder learns
from generated pets, scaled as MobileNetV2's were, and is then frozen under a decoder for others.
"""

import tempfile
from pathlib import Path
from typing import Any

from segengine.training import synthetic
from segengine.training.job import parse_train_job
from segengine.training.trainers import train
from tests.benchmarks.table import Row, show

KNOWN = {"mean": [127.5], "std": [127.5]}
TUTORIAL = {"divide": 255}
SEEDS = (0, 1)


def rows() -> list[Row]:
    """Mean IoU on the validation part, over the seeds of two trainings each (nine minutes)."""
    with tempfile.TemporaryDirectory(prefix="segengine-bench-") as name:
        first, second = Path(name) / "first", Path(name) / "second"
        synthetic.write_pets(first, 370, 1)
        synthetic.write_pets(second, 222, 2)
        encoder = train(job(first, KNOWN, 12, frozen=False)).bundle
        known, tutorial = (
            sum(
                train(job(second, scale, 10, frozen=True, seed=s, **{"from": encoder})).metrics[
                    "val_mean_iou"
                ]
                for s in SEEDS
            )
            / len(SEEDS)
            for scale in (KNOWN, TUTORIAL)
        )
    said = "pets, frozen MobileNetV2: mIoU scaled to [-1, 1], against [0, 1]"
    return [Row(said, known, tutorial, "mIoU", known / tutorial, "-")]


def job(folder: Path, scale: dict[str, Any], epochs: int, frozen: bool, **more: Any) -> Any:
    """A training on generated pets."""
    return parse_train_job(
        {
            "source": {"kind": "pets", "paths": [str(folder)], "color": "rgb"},
            "split": {"train": "trainval", "validation": "test"},
            "architecture": {"name": "unet-mobilenetv2", "weights": None, "freeze_encoder": frozen},
            "input": {"size": [96, 96], "resize": True, "scale": scale},
            "augment": {"flip": "horizontal"},
            "loss": "sparse_categorical_ce",
            "optimizer": {"name": "adam", "learning_rate": 0.001},
            "batch": 16,
            "epochs": epochs,
            "metrics": ["accuracy", "mean_iou"],
            "out": tempfile.mkdtemp(dir=folder),
            **more,
        }
    )


if __name__ == "__main__":
    show(rows())
