"""DeepLab v1 to v3+ (Chen 2014 to 2018), with weights of `segengine train` or of one's own."""

from segengine.segmenters._architecture import factory

create = factory("deeplab", __name__)
