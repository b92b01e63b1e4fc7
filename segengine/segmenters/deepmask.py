"""DeepMask (Pinheiro 2015): proposals of objects of any kind, each with a mask and a score."""

from __future__ import annotations

from functools import partial

from segengine.segmenters import _proposals

create = partial(_proposals.create, "deepmask")
