"""The law of what labels a frame by those before it."""

from __future__ import annotations

import numpy as np

from segengine import asked, tiling
from segengine.following import Chain
from segengine.testing._laws import name_of, require
from segengine.types import Follows, Pixels, Segmenter


def require_followed(segmenter: Segmenter, follows: Follows, pixels: Pixels) -> None:
    """Whoever begins at a frame labels it, and all after it, as `segment` of the whole video does."""
    __tracebackhide__ = True
    name = name_of(segmenter)
    require(
        follows.warmup >= 1 and follows.span >= 1,
        f"{name}.warmup is {follows.warmup!r}, its span {follows.span!r}; give frames, from 1 on",
    )
    count = follows.span + min(follows.span, follows.warmup) + 1
    video = tiling.pad_to(np.resize(pixels, (count, *pixels.shape[1:])), segmenter.stride)
    own = asked.placed(segmenter, (0, 0), pixels.shape[1:3])
    whole = own.segment(video).labels
    for start in sorted({0, follows.span - 1, follows.span, count - 1}):
        chain = Chain(follows)
        found = [chain.see(i, video[i]) for i in range(chain.aim(start, count), count)]
        for labels, wanted in zip(found[start - count :], whole[start:], strict=True):
            require(
                labels is not None and np.array_equal(labels, wanted),
                f"{name} labels frames from {start} on otherwise when a worker begins there; let all that "
                "decides be in what `begin` gives, and let `segment` take the segments of a video as "
                "segengine.following does",
            )
