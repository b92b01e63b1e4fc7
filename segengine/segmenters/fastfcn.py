"""FastFCN (Wu 2019), with weights of `segengine train` or of one's own."""

from segengine.segmenters._architecture import factory

create = factory("fastfcn", __name__)
