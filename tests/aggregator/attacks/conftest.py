"""The hub with a door that tests of the door use."""

from tests.aggregator.border.conftest import hub

__all__ = ["hub"]
