"""Every constant of Mask R-CNN; the two published networks are two presets of it.

`matterport`: the Mask_RCNN project, release 2 (mrcnn/config.py, mrcnn/model.py, mrcnn/utils.py;
weights `mask_rcnn_coco.h5`). `torchvision`: `maskrcnn_resnet50_fpn` with its COCO_V1 weights. They
differ in nearly every constant and in the order of operations; `preset` decides the latter.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

Preset = Literal["matterport", "torchvision"]
BACKBONES = {
    "resnet101": ((3, 4, 23, 3), 64),
    "resnet50": ((3, 4, 6, 3), 64),
    "resnet32": ((2, 3, 4, 1), 16),
    "resnet26": ((2, 2, 2, 2), 32),
    "resnet14": ((1, 1, 1, 1), 16),
}
"""Bottleneck blocks of the four stages, and the width of the first."""
STRIDES = (4, 8, 16, 32, 64)
"""Input pixels per cell of P2 ... P6."""
DIVISOR = {"matterport": 64, "torchvision": 32}
"""What the sides of the network's input are padded to a multiple of."""


@dataclass(frozen=True, slots=True)
class Config:
    """One network. Lengths are pixels of the network's input where nothing else is said."""

    preset: Preset
    classes: int
    """Number of classes; 0 is the background."""
    backbone: str
    bands: int = 3
    pyramid_channels: int = 256
    rpn_channels: int = 512
    box_channels: int = 1024
    mask_channels: int = 256
    norm_epsilon: float = 1e-3
    """Added to the variance in batch normalisation."""
    train_norm: bool = False
    """Whether training uses (and updates) the batch's statistics; both were published without."""

    min_side: int = 800
    """Least length of the shorter side of the resized image, unless `max_side` forbids."""
    max_side: int = 1024
    mean: tuple[float, ...] = (123.7, 116.8, 103.9)
    """Of each band, for values 0 to 255."""
    deviation: tuple[float, ...] = (1.0, 1.0, 1.0)

    anchor_sizes: tuple[int, ...] = (32, 64, 128, 256, 512)
    """Side of a square anchor on P2 ... P6."""
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Width / height (matterport) or height / width (torchvision)."""
    rpn_deviation: tuple[float, ...] = (0.1, 0.1, 0.2, 0.2)
    """What the RPN's deltas (y, x, height, width) are multiplied by."""
    box_deviation: tuple[float, ...] = (0.1, 0.1, 0.2, 0.2)
    max_log_scale: float = math.inf
    """Deltas of height and width are clipped there."""

    pre_nms: int = 6000
    """Best anchors that are looked at: of all levels (matterport) or of each (torchvision)."""
    post_nms: int = 1000
    """Most proposals."""
    rpn_iou: float = 0.7
    rpn_min_size: float = 0.0
    train_regions: int = 200
    """Regions of an image that the heads learn from."""
    box_pool: int = 7
    mask_pool: int = 14

    min_score: float = 0.7
    detection_iou: float = 0.3
    detection_min_size: float = 0.0
    max_detections: int = 100

    @property
    def matterport(self) -> bool:
        """Whether the order of operations is matterport's; else torchvision's."""
        return self.preset == "matterport"

    @property
    def stages(self) -> tuple[tuple[int, ...], int]:
        """Blocks of each stage, and the width of the first."""
        return BACKBONES[self.backbone]

    def to_dict(self) -> dict[str, Any]:
        """JSON values; `Config.from_dict` reads them."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in dataclasses.asdict(self).items()
            if value != math.inf
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Config:
        """The config of `to_dict`."""
        return cls(**_tuples(values))


def preset(
    name: str = "matterport",
    classes: int | None = None,
    backbone: str | None = None,
    bands: int = 3,
    **changes: Any,
) -> Config:
    """A published network's constants, with changes. Raises ValueError naming the option."""
    if name not in get_args(Preset):
        raise ValueError(f"preset: must be one of {', '.join(get_args(Preset))}, not {name!r}")
    if name == "matterport":
        found = Config("matterport", 81, "resnet101")
    else:
        found = Config(
            "torchvision",
            91,
            "resnet50",
            rpn_channels=256,
            # The COCO_V1 weights were trained with an epsilon of 0 (torchvision's overwrite_eps).
            norm_epsilon=0.0,
            max_side=1333,
            mean=(0.485 * 255, 0.456 * 255, 0.406 * 255),
            deviation=(0.229 * 255, 0.224 * 255, 0.225 * 255),
            rpn_deviation=(1.0, 1.0, 1.0, 1.0),
            max_log_scale=math.log(1000 / 16),
            pre_nms=1000,
            rpn_min_size=1e-3,
            train_regions=512,
            min_score=0.05,
            detection_iou=0.5,
            detection_min_size=1e-2,
        )
    changes |= {"bands": bands}
    changes |= {} if classes is None else {"classes": classes}
    changes |= {} if backbone is None else {"backbone": backbone}
    if bands != 3:  # no published mean for other bands: the mean over the three
        changes.setdefault("mean", (sum(found.mean) / 3,) * max(1, bands))
        changes.setdefault("deviation", (sum(found.deviation) / 3,) * max(1, bands))
    known = {field.name for field in dataclasses.fields(Config)} - {"preset"}
    for option in changes:
        if option not in known:
            raise ValueError(f"{option}: mask-rcnn has no such option; it takes {sorted(known)}")
    found = dataclasses.replace(found, **_tuples(changes))
    _check(found)
    return found


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def _check(config: Config) -> None:
    if config.backbone not in BACKBONES:
        raise ValueError(
            f"backbone: must be one of {', '.join(BACKBONES)}, not {config.backbone!r}"
        )
    if isinstance(config.classes, bool) or not 2 <= config.classes <= 65535:
        raise ValueError(f"classes: must be 2 to 65535 with the background, not {config.classes!r}")
    for option in [
        "bands",
        "pyramid_channels",
        "rpn_channels",
        "box_channels",
        "mask_channels",
        "min_side",
        "max_side",
        "pre_nms",
        "post_nms",
        "train_regions",
        "max_detections",
    ]:
        value = getattr(config, option)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{option}: must be a positive integer, not {value!r}")
    if config.matterport and config.max_side % DIVISOR["matterport"]:
        raise ValueError(f"max_side: must be a multiple of 64, not {config.max_side}")
    for option in ("min_score", "detection_iou", "rpn_iou"):
        value = getattr(config, option)
        if not 0 <= value <= 1:
            raise ValueError(f"{option}: must be from 0 to 1, not {value!r}")
    for option, length in (
        ("mean", config.bands),
        ("deviation", config.bands),
        ("anchor_sizes", len(STRIDES)),
        ("rpn_deviation", 4),
        ("box_deviation", 4),
    ):
        if len(getattr(config, option)) != length:
            raise ValueError(f"{option}: must have {length} numbers, not {getattr(config, option)}")
