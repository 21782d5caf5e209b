"""A job as Kubernetes has it: the status of the resource, read with the user's own kubeconfig."""

from __future__ import annotations

from typing import Any, cast

from pydantic import ValidationError

from photon.api.job import GROUP, KIND, PLURAL, VERSION
from photon.api.status import JobStatus
from photon.cli.sources.base import StatusView
from photon.errors import NoAnswer, UserError

_TIMEOUT_SECONDS = 10


class Resource:
    """A FederatedTrainingJob. ``namespace`` None: that of the kubeconfig's current context."""

    poll_seconds = 2.0

    def __init__(self, *, namespace: str | None, name: str) -> None:
        asked = f"{namespace}/{name}" if namespace else name
        try:
            import kubernetes
        except ImportError as error:
            raise UserError(
                f"{asked}: there is no such folder; to look for a job of that name in Kubernetes the Kubernetes client "
                f"is needed: pip install 'photon[operator]' (or: kubectl get ftj {name} -o wide)"
            ) from error
        self._kubernetes = kubernetes
        self._name = name
        self._namespace, self._where = self._connect(namespace, asked)
        self._api = kubernetes.client.CustomObjectsApi()

    def fetch(self) -> StatusView:
        resource = self._read()
        try:
            status = JobStatus.model_validate(resource.get("status") or {})
        except ValidationError as error:
            raise UserError(
                f"{self._namespace}/{self._name} has a status of another version of Photon "
                f"({error.errors()[0]['msg']}): use the version of its operator"
            ) from error
        steps = resource.get("spec", {}).get("local", {}).get("steps", 0)
        hint = "" if status.conditions else "no operator has reconciled it yet"
        return StatusView(name=f"{self._namespace}/{self._name}", local_steps=int(steps), status=status, hint=hint)

    def _connect(self, namespace: str | None, asked: str) -> tuple[str, str]:
        """Load the configuration; the namespace to look into, and a word for the cluster."""
        config = self._kubernetes.config
        try:
            config.load_kube_config()
            _, context = config.list_kube_config_contexts()
            return namespace or context["context"].get("namespace", "default"), f"the context {context['name']}"
        except config.ConfigException:
            pass
        try:
            config.load_incluster_config()
        except config.ConfigException as error:
            raise UserError(
                f"{asked}: there is no such folder, and no kubeconfig to look for a job of that name in "
                "Kubernetes: set KUBECONFIG, or give a folder or an address"
            ) from error
        return namespace or "default", "this cluster"

    def _read(self) -> dict[str, Any]:
        client = self._kubernetes.client
        asked = f"{self._namespace}/{self._name}"
        try:
            found = self._api.get_namespaced_custom_object(
                GROUP, VERSION, self._namespace, PLURAL, self._name, _request_timeout=_TIMEOUT_SECONDS
            )
            return cast("dict[str, Any]", found)
        except client.ApiException as error:
            if error.status == 404:
                raise UserError(f"{asked}: {self._where} has no {KIND} of that name in that namespace") from error
            if error.status in (401, 403):
                raise UserError(f"{asked}: you may not read it in {self._where} ({error.reason})") from error
            raise NoAnswer(f"{asked}: the API server of {self._where} answers {error.status} {error.reason}") from error
        except Exception as error:
            # urllib3's, which the client does not wrap.
            if type(error).__module__.partition(".")[0] != "urllib3":
                raise
            raise NoAnswer(f"{asked}: the API server of {self._where} does not answer") from error
