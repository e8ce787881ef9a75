"""How far a bar has come between the exchange and a proven row of Silver. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from cryptolake_assets.model.columns import Column


class BarState(StrEnum):
    """How far a bar has come."""

    PROVISIONAL = "provisional"  # of all trades that Kafka has, some of which Silver lacks yet
    PUBLISHED = "published"  # in Silver, not proven complete
    FINAL = "final"  # in Silver and complete
    BLOCKED = "blocked"  # provisional, while a check rejects the candidate of its hour


STATE: Final = Column(
    "state",
    "string",
    "provisional: of all trades that Kafka has; published: in Silver, not proven complete; final: in Silver and "
    "complete; blocked: provisional, while a check rejects the hour's candidate",
)
SERVED: Final = (BarState.PROVISIONAL, BarState.PUBLISHED, BarState.FINAL)  # unless a request names others
