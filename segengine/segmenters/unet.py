"""U-Net (Ronneberger 2015), with weights of `segengine train` or of one's own."""

from segengine.segmenters._architecture import factory

create = factory("unet", __name__)
