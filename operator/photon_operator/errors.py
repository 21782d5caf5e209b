"""The errors of the operator: one root below PhotonError, and the exit code of the program where one ends it.

OperatorError           1: the message is one sentence for a person
 ├─ SettingsError       2: photon_operator.settings: an environment variable cannot be used
 ├─ NoKubernetes        2: photon_operator.cluster.client: there is no cluster to speak to
 ├─ ApiError               of a request: photon_operator.cluster.client: the API server answered with an error
 └─ InvalidPod             of a job: its pods cannot be made as it says
     └─ PatchError             its podTemplatePatch is no pod template
"""

from __future__ import annotations

from photon.errors import PhotonError


class OperatorError(PhotonError):
    """What ends the operator or the reconcile of one job. The message is one clear sentence."""


class InvalidPod(OperatorError):
    """What the job says of its pods cannot be; the message names the field and the fix."""


class PatchError(InvalidPod):
    """The patch has not the form of a pod template; the message names the field below podTemplatePatch."""
