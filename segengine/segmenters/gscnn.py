"""Gated-SCNN (Takikawa 2019), with weights of `segengine train` or of one's own."""

from segengine.segmenters._architecture import factory

create = factory("gscnn", __name__)
