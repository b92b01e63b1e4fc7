"""U-Net on a MobileNetV2 encoder, with weights of `segengine train` or of one's own."""

from segengine.segmenters._architecture import factory

create = factory("unet-mobilenetv2", __name__)
