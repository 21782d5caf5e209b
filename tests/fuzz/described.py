"""Requests made from a description of routes (OpenAPI, of the models): valid ones, and ones that break it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, get_type_hints

import requests
import schemathesis
from fastapi import FastAPI
from fastapi.routing import APIRoute
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from pydantic import BaseModel
from schemathesis import Case, GenerationMode
from schemathesis.core.result import Ok

from photon_aggregator.http import bodies
from photon_aggregator.http.border import routes

# A long poll says how long it waits; all else answers within this.
LONGEST_SECONDS = 20.0


def of_door() -> dict[str, Any]:
    """The routes of a hub's door, as if it published them."""
    app = FastAPI()
    app.include_router(routes.router)
    described = app.openapi()
    for route in routes.router.routes:
        assert isinstance(route, APIRoute)
        hints = get_type_hints(route.endpoint)
        model = next((hints[name] for name in ("request", "said", "report") if name in hints), None)
        if model is not None and issubclass(model, BaseModel):
            operation = described["paths"][route.path]["post"]
            operation |= bodies.schema(model)
            described.setdefault("components", {}).setdefault("schemas", {}).update(bodies.components(model))
    return described


def ask(
    described: dict[str, Any], url: str, headers: Mapping[str, str], *, examples: int, start: int = 1
) -> tuple[Counter[int], list[str]]:
    """Statuses of ``examples`` valid and as many broken requests of each route; and what must not have happened."""
    for path in described["paths"].values():
        for operation in path.values():
            kept = [one for one in operation.get("parameters", []) if one["name"] != "wait_seconds"]
            operation["parameters"] = kept
    statuses: Counter[int] = Counter()
    problems: list[str] = []
    schema = schemathesis.openapi.from_dict(described)
    with requests.Session() as session:
        session.trust_env = False
        for found in schema.get_all_operations():
            assert isinstance(found, Ok)
            for mode in GenerationMode:
                try:
                    strategy = found.ok().as_strategy(generation_mode=mode)

                    @seed(start)
                    @settings(
                        max_examples=examples,
                        deadline=None,
                        database=None,
                        phases=[Phase.generate],
                        suppress_health_check=list(HealthCheck),
                    )
                    @given(case=strategy)
                    def one(case: Case) -> None:
                        began = time.monotonic()
                        answer = case.call(
                            base_url=url,
                            session=session,
                            headers=dict(headers),
                            params={"wait_seconds": "0"},
                            timeout=60,
                        )
                        statuses[answer.status_code] += 1
                        said = answer.content[:300].decode(errors="replace")
                        if answer.status_code >= 500 and "NotReady" not in said:
                            problems.append(f"{case.method} {case.formatted_path}: {answer.status_code} {said}")
                        if time.monotonic() - began > LONGEST_SECONDS:
                            problems.append(
                                f"{case.method} {case.formatted_path}: took {time.monotonic() - began:.0f} s"
                            )

                    one()
                except Unsatisfiable:  # Nothing that it asks for can be broken.
                    continue
    return statuses, problems
