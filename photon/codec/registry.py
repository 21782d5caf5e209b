"""From the name in the job to the codec."""

from __future__ import annotations

from photon.api.training import Codec
from photon.codec.base import UpdateCodec
from photon.codec.dense import DenseBF16, DenseFP32
from photon.codec.int8 import BlockInt8


def codec_for(name: Codec) -> UpdateCodec:
    """The codec that ``exchange.codec`` names."""
    match name:
        case Codec.DENSE_FP32:
            return DenseFP32()
        case Codec.DENSE_BF16:
            return DenseBF16()
        case Codec.BLOCK_INT8:
            return BlockInt8()
