"""Trains: nothing here knows of rounds or of the aggregator.

::

    loop        the optimizer steps; read it from top to bottom
    strategy    how processes hold the model; the plain way
    schedule    the learning rate by global step
    model       Hugging Face models as one flat vector
    pretrained  checks of a checkpoint from outside
    evaluate    held-out loss
    device      device, threads, peak speed, memory
    forward     a forward pass in training; the loss that experts need
    flops       arithmetic per token, for MFU
"""
