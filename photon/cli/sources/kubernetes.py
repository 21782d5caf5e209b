"""A job as Kubernetes has it: its resource, read and annotated with the user's own kubeconfig."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from pydantic import ValidationError

from photon.api.job import GROUP, KIND, PLURAL, VERSION
from photon.api.status import JobStatus
from photon.cli.sources.base import StatusView
from photon.errors import NoAnswer, UserError

_TIMEOUT_SECONDS = 10


class Resource:
    """A FederatedTrainingJob. ``context`` None: the kubeconfig's current one; ``namespace`` None: its own."""

    poll_seconds = 2.0

    def __init__(self, *, namespace: str | None, name: str, context: str | None = None) -> None:
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
        self._namespace, self._where = self._connect(namespace, asked, context)
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

    def _connect(self, namespace: str | None, asked: str, chosen: str | None) -> tuple[str, str]:
        """Load the configuration; the namespace to look into, and a word for the cluster."""
        config = self._kubernetes.config
        try:
            config.load_kube_config(context=chosen)
            contexts, context = config.list_kube_config_contexts()
            context = next((each for each in contexts if each["name"] == chosen), context)
            return namespace or context["context"].get("namespace", "default"), f"the context {context['name']}"
        except config.ConfigException as error:
            if chosen is not None:
                raise UserError(f"--context {chosen}: {error}") from error
        try:
            config.load_incluster_config()
        except config.ConfigException as error:
            raise UserError(
                f"{asked}: there is no such folder, and no kubeconfig to look for a job of that name in "
                "Kubernetes: set KUBECONFIG, or give a folder or an address"
            ) from error
        return namespace or "default", "this cluster"

    def annotate(self, key: str, value: str) -> None:
        """Set an annotation of the job.

        Raises:
            NoAnswer, UserError: As ``fetch``.
        """
        body = {"metadata": {"annotations": {key: value}}}
        self._call(
            "change",
            self._api.patch_namespaced_custom_object,
            body,
            _content_type="application/merge-patch+json",
            field_manager="photon",
        )

    def _read(self) -> dict[str, Any]:
        return self._call("read", self._api.get_namespaced_custom_object)

    def _call(self, verb: str, request: Callable[..., Any], *arguments: Any, **more: Any) -> dict[str, Any]:
        client = self._kubernetes.client
        asked = f"{self._namespace}/{self._name}"
        where = (GROUP, VERSION, self._namespace, PLURAL, self._name)
        try:
            return cast("dict[str, Any]", request(*where, *arguments, _request_timeout=_TIMEOUT_SECONDS, **more))
        except client.ApiException as error:
            if error.status == 404:
                raise UserError(f"{asked}: {self._where} has no {KIND} of that name in that namespace") from error
            if error.status in (401, 403):
                raise UserError(f"{asked}: you may not {verb} it in {self._where} ({error.reason})") from error
            raise NoAnswer(f"{asked}: the API server of {self._where} answers {error.status} {error.reason}") from error
        except Exception as error:
            # urllib3's, which the client does not wrap.
            if type(error).__module__.partition(".")[0] != "urllib3":
                raise
            raise NoAnswer(f"{asked}: the API server of {self._where} does not answer") from error
