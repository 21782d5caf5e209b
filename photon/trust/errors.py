"""Why something is not believed. Every message is one sentence that names what, without its secret contents."""

from __future__ import annotations

from photon.errors import PhotonError, UserError


class TrustError(PhotonError):
    """Something from outside does not hold."""


class KeyFileError(TrustError, UserError):
    """A file with a private key cannot be used; the message names the file and the fix."""


class BadKey(TrustError):
    """Not a public key that identifies anybody."""


class BadEnvelope(TrustError):
    """Not an envelope: too large, not JSON, or not in its one spelling."""


class WrongKind(TrustError):
    """A signed statement of another kind than the one that belongs here."""


class BadSignature(TrustError):
    """Not signed by the key that it must be signed by."""


class BadStatement(TrustError):
    """Signed, but not a statement that this release understands."""


class BadHistory(TrustError):
    """Records of a participant that do not follow from each other."""
