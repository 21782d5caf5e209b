"""Fixtures of the aggregator's tests that whole jobs through gates need as well."""

from tests.aggregator.conftest import other_store

__all__ = ["other_store"]
