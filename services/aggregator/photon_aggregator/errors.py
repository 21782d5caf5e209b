"""The errors of the aggregator: one root below PhotonError, and the exit code of the program that each ends.

AggregatorError            1: the message is one sentence for a person
 ├─ Misconfigured          2: what the aggregator was given does not fit; the message names it and says how to fix it
 │   ├─ JobMismatch            the job file differs from the job in the bucket
 │   ├─ TokensError            the file of tokens
 │   └─ ListenError            an address to listen on
 ├─ PartsError             of a request: the parts asked for are not parts of an update of this round
 ├─ ApiError               of a request: photon_aggregator.http.errors
 ├─ MergeError             of a round: the merge gives no model; photon_aggregator.merge.updates has its tree
 ├─ Abandoned              of a thread: another one gave the merge up
 └─ ShuttingDown                of a thread: the process is about to exit

RecordError (bucket.records) is a Contradiction of photon.store.errors: the store holds what it must not hold.
"""

from __future__ import annotations

from photon.errors import PhotonError, UserError


class AggregatorError(PhotonError):
    """What ends the aggregator, a round's work, or a request to it. The message is one clear sentence."""


class Misconfigured(AggregatorError, UserError):
    """What the aggregator was given does not fit; the message names it and the fix."""


class JobMismatch(Misconfigured):
    """The job file says something else than the job in the bucket; the message says what."""


class TokensError(Misconfigured):
    """The file of tokens cannot be used."""


class ListenError(Misconfigured):
    """An address cannot be listened on."""


class PartsError(AggregatorError):
    """The parts asked for are not parts of an update of this round."""


class Abandoned(AggregatorError):
    """Another thread gave the merge up while this one waited for its turn."""


class ShuttingDown(AggregatorError):
    """The aggregator is shutting down; what was under way is left for its next start."""
