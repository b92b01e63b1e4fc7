"""Class names of the presets, in order, and what each layer is called in the published files.

Layers are named as in the file that brings their weights, so a stage or a tensor is found by the
name its publication gives it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from segengine.models.maskrcnn.config import Config

_COCO = """
1 person|2 bicycle|3 car|4 motorcycle|5 airplane|6 bus|7 train|8 truck|9 boat|10 traffic light|
11 fire hydrant|13 stop sign|14 parking meter|15 bench|16 bird|17 cat|18 dog|19 horse|20 sheep|
21 cow|22 elephant|23 bear|24 zebra|25 giraffe|27 backpack|28 umbrella|31 handbag|32 tie|
33 suitcase|34 frisbee|35 skis|36 snowboard|37 sports ball|38 kite|39 baseball bat|
40 baseball glove|41 skateboard|42 surfboard|43 tennis racket|44 bottle|46 wine glass|47 cup|
48 fork|49 knife|50 spoon|51 bowl|52 banana|53 apple|54 sandwich|55 orange|56 broccoli|57 carrot|
58 hot dog|59 pizza|60 donut|61 cake|62 chair|63 couch|64 potted plant|65 bed|67 dining table|
70 toilet|72 tv|73 laptop|74 mouse|75 remote|76 keyboard|77 cell phone|78 microwave|79 oven|
80 toaster|81 sink|82 refrigerator|84 book|85 clock|86 vase|87 scissors|88 teddy bear|
89 hair drier|90 toothbrush
"""


def class_names(config: Config) -> tuple[str, ...]:
    """One name a class: COCO's where the config has the preset's number of them.

    matterport counts the 80 categories from 1 on; torchvision keeps COCO's ids, which have holes,
    called `unused 12` and so on here.
    """
    if config.classes != (81 if config.matterport else 91):
        return ("background", *(f"class {i}" for i in range(1, config.classes)))
    pairs = [item.strip().partition(" ") for item in _COCO.split("|")]
    by_id = {int(number): name for number, _, name in pairs}
    if config.matterport:
        return ("BG", *by_id.values())
    return ("__background__", *(by_id.get(i, f"unused {i}") for i in range(1, 91)))


class Names(Protocol):
    """Layer names of a preset."""

    @property
    def stem(self) -> tuple[str, str]:
        """Convolution and normalisation of the stem."""
        ...

    def block(self, stage: int, index: int, branch: str) -> tuple[str, str]:
        """Convolution and normalisation of a branch (a, b, c or `shortcut`) of a block from 0 on.

        Stages count from 2 to 5, as C2 ... C5 do.
        """
        ...

    def lateral(self, level: int) -> str: ...
    def smooth(self, level: int) -> str: ...
    @property
    def rpn(self) -> tuple[str, str, str]:
        """Shared convolution, scores, deltas."""
        ...

    @property
    def box(self) -> tuple[str, str, str, str]:
        """Two hidden layers, classes, deltas."""
        ...

    def mask(self, index: int) -> str:
        """Convolutions from 1 on."""
        ...

    @property
    def mask_top(self) -> tuple[str, str]:
        """Transposed convolution, and the classes' masks."""
        ...


@dataclass(frozen=True, slots=True)
class MatterportNames:
    """Layer names of `mask_rcnn_coco.h5`."""

    stem: tuple[str, str] = ("conv1", "bn_conv1")
    rpn: tuple[str, str, str] = ("rpn_conv_shared", "rpn_class_raw", "rpn_bbox_pred")
    box: tuple[str, str, str, str] = (
        "mrcnn_class_conv1",
        "mrcnn_class_conv2",
        "mrcnn_class_logits",
        "mrcnn_bbox_fc",
    )
    mask_top: tuple[str, str] = ("mrcnn_mask_deconv", "mrcnn_mask")

    def block(self, stage: int, index: int, branch: str) -> tuple[str, str]:
        """As `res4w_branch2a`, `bn4w_branch2a`."""
        end = "1" if branch == "shortcut" else f"2{branch}"
        name = f"{stage}{chr(ord('a') + index)}_branch{end}"
        return f"res{name}", f"bn{name}"

    def lateral(self, level: int) -> str:
        """As `fpn_c5p5`."""
        return f"fpn_c{level}p{level}"

    def smooth(self, level: int) -> str:
        """As `fpn_p5`."""
        return f"fpn_p{level}"

    def mask(self, index: int) -> str:
        """As `mrcnn_mask_conv1`."""
        return f"mrcnn_mask_conv{index}"


@dataclass(frozen=True, slots=True)
class TorchvisionNames:
    """Prefixes of the keys of torchvision's state dict."""

    stem: tuple[str, str] = ("backbone.body.conv1", "backbone.body.bn1")
    rpn: tuple[str, str, str] = (
        "rpn.head.conv.0.0",
        "rpn.head.cls_logits",
        "rpn.head.bbox_pred",
    )
    box: tuple[str, str, str, str] = (
        "roi_heads.box_head.fc6",
        "roi_heads.box_head.fc7",
        "roi_heads.box_predictor.cls_score",
        "roi_heads.box_predictor.bbox_pred",
    )
    mask_top: tuple[str, str] = (
        "roi_heads.mask_predictor.conv5_mask",
        "roi_heads.mask_predictor.mask_fcn_logits",
    )

    def block(self, stage: int, index: int, branch: str) -> tuple[str, str]:
        """As `backbone.body.layer3.22.conv1`, `backbone.body.layer3.22.bn1`."""
        base = f"backbone.body.layer{stage - 1}.{index}"
        if branch == "shortcut":
            return f"{base}.downsample.0", f"{base}.downsample.1"
        number = "abc".index(branch) + 1
        return f"{base}.conv{number}", f"{base}.bn{number}"

    def lateral(self, level: int) -> str:
        """As `backbone.fpn.inner_blocks.3.0`."""
        return f"backbone.fpn.inner_blocks.{level - 2}.0"

    def smooth(self, level: int) -> str:
        """As `backbone.fpn.layer_blocks.3.0`."""
        return f"backbone.fpn.layer_blocks.{level - 2}.0"

    def mask(self, index: int) -> str:
        """As `roi_heads.mask_head.0.0`."""
        return f"roi_heads.mask_head.{index - 1}.0"


def layer_names(config: Config) -> Names:
    """The names of the preset's published file."""
    return MatterportNames() if config.matterport else TorchvisionNames()
