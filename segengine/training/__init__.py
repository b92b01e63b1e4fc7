"""Training of networks: from a TRAIN.yaml and images with truth to a bundle that segments.

    job -> data (split) -> a trainer: fit, maskrcnn or proposals (checkpoints, pictures) -> bundle, card

Everything random is drawn from (seed, epoch, sample), never from a global state, so that a run can
be repeated, and resumed after a kill, bit for bit on the same machine.
"""
