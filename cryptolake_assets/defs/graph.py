"""Inputs of every family of the graph: the settings and the partitions derived from them."""

from __future__ import annotations

from dataclasses import dataclass

from cryptolake_assets.defs.partitions import GraphPartitions
from cryptolake_assets.settings import Settings


@dataclass(frozen=True)
class Graph:
    """The inputs of every family's `definitions`."""

    settings: Settings
    partitions: GraphPartitions

    @classmethod
    def of(cls, settings: Settings) -> Graph:
        """Return the inputs for these settings. Raises `CaptureError` if a replay has no capture."""
        return cls(settings, GraphPartitions.of(settings))
