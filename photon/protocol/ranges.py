"""The range of every figure that a participant may report: what is outside is refused where it arrives.

The ranges are far wider than anything that training gives, and narrow enough that sums over all participants and rounds
stay numbers: so nothing that was let in can keep a commit, a log or an answer from being written.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

MAX_COUNT: Final = 2**62
MAX_LOSS: Final = 1e4
MAX_NORM: Final = 1e12
MAX_SECONDS: Final = 1e9
MAX_BYTES: Final = 2**50
MAX_TOKENS: Final = 10**15
MAX_RETRIES: Final = 10**9
MAX_PARTS: Final = 100_000

# Wide on purpose: what records hold, also those that an earlier release wrote, must stay readable.
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Finite = Annotated[float, Field(allow_inf_nan=False)]

Loss = Annotated[float, Field(ge=0, le=MAX_LOSS, allow_inf_nan=False, description="Nats a token.")]
Norm = Annotated[float, Field(ge=0, le=MAX_NORM, allow_inf_nan=False, description="L2.")]
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Rate = Annotated[float, Field(ge=0, le=1e15, allow_inf_nan=False, description="A second.")]
LearningRateValue = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
# Of a device whose peak is not known exactly: it may be a little above 1.
Utilization = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, le=MAX_SECONDS, allow_inf_nan=False)]
Bytes = Annotated[int, Field(ge=0, le=MAX_BYTES)]
Tokens = Annotated[int, Field(ge=0, le=MAX_TOKENS)]
Elements = Annotated[int, Field(ge=0, le=MAX_BYTES // 4)]
Step = Annotated[int, Field(ge=0, le=10**15)]
RoundNumber = Annotated[int, Field(ge=0, le=10**9)]
Retries = Annotated[int, Field(ge=0, le=MAX_RETRIES)]
PartIndex = Annotated[int, Field(ge=0, lt=MAX_PARTS)]
TaskId = Annotated[
    str, Field(max_length=64, pattern="^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", description="As the task's id: train-00012.")
]
