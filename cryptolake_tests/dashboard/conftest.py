"""The lake with bars and the API on it, as the API's own tests have them."""

from cryptolake_tests.api.conftest import api, bars

__all__ = ["api", "bars"]
