"""How the values of an update travel: a part's fp32 values to the bytes of one object, and any range of them back.

::

    base      what every codec promises
    dense     fp32 and bf16
    int8      block-wise int8
    registry  from the name in the job to the codec
"""

from __future__ import annotations

from photon.codec.base import CodecError, UpdateCodec, check_part_file, check_part_header, part_ranges
from photon.codec.dense import DenseBF16, DenseFP32
from photon.codec.int8 import BlockInt8
from photon.codec.registry import codec_for

__all__ = [
    "BlockInt8",
    "CodecError",
    "DenseBF16",
    "DenseFP32",
    "UpdateCodec",
    "check_part_file",
    "check_part_header",
    "codec_for",
    "part_ranges",
]
