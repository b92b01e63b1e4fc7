"""SharpMask: DeepMask whose masks are refined from the top down with the trunk's earlier maps.

Pinheiro et al. 2016, "Learning to refine object segments", with 32 channels at the top (km = ks).

    bottom_up   image (n, h, w, band) -> vectors (n, gy, gx, 512), scores (n, gy, gx, 1), and four
                horizontal maps (n, 10 + gy - 1, ..., 16), then twice as large and half as wide each
    top_down    vectors (p, 512) and their patches of the maps, (p, 10, 10, 16) to (p, 80, 80, 2)
                -> masks (p, 160, 160, 1)

The horizontal maps of an image are made once, whatever the number of masks. All give logits.
"""

from __future__ import annotations

import re
from typing import Any

import keras
from keras import layers

from segengine.models import deepmask
from segengine.models._build import Size, final, load_weights
from segengine.models._torch import relu
from segengine.models.deepmask import BORDER, CELLS, INPUT, STRIDE, symmetric_conv

_HORIZONTAL = re.compile(r"h\d\.")
_LEVELS = (("c4", 64, 32), ("c3", 64, 16), ("c2", 64, 8), ("stem", 32, 4))
"""Of each refinement: the trunk's map, and the widths inside; it ends with half the last."""


def build(
    bands: int = 3,
    classes: int = 1,
    size: Size = (None, None),
    weights: str | None = None,
    *,
    backbone: deepmask.Backbone = "resnet50",
    train_norm: bool = False,
    trunk: str | None = None,
    activation: str | None = "auto",
) -> keras.Model:
    """SharpMask for patches (n, 192, 192, bands): masks (n, 160, 160, 1) and scores (n, 1).

    Options as for `deepmask`. `trunk`: weights of a DeepMask whose trunk and score head are taken
    and kept fixed, as the paper trains it. Raises ValueError for a value it does not know.
    """
    deepmask.check_patches(bands, classes, size, train_norm)
    image = keras.Input((None, None, bands), name="image")
    features = deepmask.resnet_trunk(image, backbone, train_norm)
    vectors, scores = deepmask.heads(features["c4"])
    maps = [_horizontal(features[key], i) for i, (key, _, _) in enumerate(_LEVELS)]
    up = keras.Model(image, [vectors, scores, *maps], name="bottom_up")
    down = _top_down()

    patch = keras.Input((INPUT, INPUT, bands), name="patch")
    vectors, scores, *maps = up(patch)
    logits = down([layers.Reshape((512,), name="vectors")(vectors), *maps])
    outputs = [final(logits, 1, activation), deepmask.final_score(scores, activation)]
    model = keras.Model(patch, outputs, name="sharpmask")
    if trunk is not None:
        fix_trunk(model, deepmask.build(bands, weights=trunk, backbone=backbone))
    load_weights(model, weights)
    return model


def fix_trunk(model: keras.Model, source: keras.Model) -> None:
    """Give a SharpMask trunk and scores of a DeepMask or SharpMask; it learns to refine, they stay.

    Raises ValueError where they are of another backbone or number of bands.
    """
    own, given = (_weighted(m.get_layer("bottom_up")) for m in (model, source))
    taken, there = ([n for n in names if not _HORIZONTAL.match(n)] for names in (own, given))
    if taken != there:
        raise ValueError("trunk: is of another backbone")
    for name in taken:
        if [w.shape for w in own[name].weights] != [w.shape for w in given[name].weights]:
            raise ValueError(f"trunk: its {name} has other shapes than this network's")
    for name in taken:
        own[name].set_weights(given[name].get_weights())
        own[name].trainable = False


def _weighted(model: keras.Model) -> dict[str, Any]:
    return {layer.name: layer for layer in model.layers if layer.weights}


def _top_down() -> keras.Model:
    vector = keras.Input((512,), name="vector")
    x = layers.Dense(CELLS * CELLS * _LEVELS[0][2], name="v")(vector)
    x = layers.Reshape((CELLS, CELLS, _LEVELS[0][2]), name="v.map")(x)
    patches = []
    for i, (_, _, width) in enumerate(_LEVELS):
        side = CELLS << i
        patches.append(keras.Input((side, side, width // 2), name=f"h{i}.patch"))
        x = relu(symmetric_conv(x, width, 3, f"v{i}.0"), f"v{i}.relu")
        x = symmetric_conv(x, width // 2, 3, f"v{i}.1")
        x = relu(layers.Add(name=f"r{i}.add")([x, patches[i]]), f"r{i}.relu")
        x = layers.UpSampling2D(2, name=f"r{i}.up")(x)
    return keras.Model([vector, *patches], symmetric_conv(x, 1, 3, "last"), name="top_down")


def _horizontal(x: Any, i: int) -> Any:
    """Three convolutions of a trunk's map, without the border that belongs to no patch."""
    _, inside, width = _LEVELS[i]
    x = layers.Cropping2D((BORDER // STRIDE) << i, name=f"h{i}.crop")(x)
    x = relu(symmetric_conv(x, inside, 3, f"h{i}.0"), f"h{i}.relu0")
    x = relu(symmetric_conv(x, width, 3, f"h{i}.1"), f"h{i}.relu1")
    return symmetric_conv(x, width // 2, 3, f"h{i}.2")
