"""Mask R-CNN (He et al. 2017) with a feature pyramid (Lin et al. 2017), piece by piece.

    config      every constant; the two published networks are two presets of it
    names       class names, and what each tensor is called in the published files
    preprocess  an image to what the network sees
    backbone    residual network and feature pyramid -> P2 ... P6
    anchors     boxes that the region proposal network starts from
    boxes       box coding, clipping, levels
    proposals   anchors, scores and deltas -> regions
    roialign    regions and pyramid -> squares of features
    heads       region proposal, box and mask heads
    detections  box head's output -> boxes, classes, scores
    network     all of it as one keras.Model
    postprocess detections -> instances in the image's own pixels
    weights     published weight files -> variables, each by name
    download    the published file, fetched once
    targets     what to learn: anchors, regions, mini-masks
    losses      the five losses
    step        the losses of a batch, for training

Boxes are y1, x1, y2, x2 throughout, half-open.
"""
