"""SharpMask (Pinheiro 2016): DeepMask's proposals with finer masks."""

from __future__ import annotations

from functools import partial

from segengine.segmenters import _proposals

create = partial(_proposals.create, "sharpmask")
