"""Inputs of every module of the graph: the settings and the partitions derived from them."""

from __future__ import annotations

from dataclasses import dataclass

from cryptolake_assets.defs.partitions import GraphPartitions
from cryptolake_assets.model.markets import Family
from cryptolake_assets.settings import Settings


@dataclass(frozen=True)
class Graph:
    """The inputs of every module's `definitions`."""

    settings: Settings
    partitions: GraphPartitions

    @classmethod
    def of(cls, settings: Settings) -> Graph:
        """Return the inputs for these settings. Raises `CaptureError` if a replay has no capture."""
        return cls(settings, GraphPartitions.of(settings))


def name_of(family: Family, name: str) -> str:
    """Return the name of a family's job, schedule or check step: that of the futures is `name` itself."""
    return name if family is Family.FUTURES else f"{family}_{name}"
