"""The settings of the replay exchange: how fast it replays, and what it does wrong."""

from __future__ import annotations

from pydantic import field_validator
from pydantic_settings import BaseSettings

from cryptolake_assets.errors import SettingsError
from cryptolake_assets.exchange.replay_faults import parse_faults
from cryptolake_assets.settings_batch import named


class ReplaySettings(BaseSettings):
    """Part of `settings.Settings`, which says where values come from."""

    replay_speed: float = named(
        "CRYPTOLAKE_REPLAY_SPEED",
        60.0,
        "Replay speed: 1 is real time, 60 a minute a second, 0 as fast as the reader takes it.",
        ge=0,
    )
    replay_faults: str = named(
        "CRYPTOLAKE_REPLAY_FAULTS",
        "",
        'Faults of the replay exchange, as JSON: `[{"kind": "drop", "share": 0.01}]`. Empty: none. The switches are in '
        "docs/operations.md.",
    )

    @field_validator("replay_faults")
    @classmethod
    def _fault_switches(cls, value: str) -> str:
        try:
            parse_faults(value)
        except SettingsError as error:
            raise ValueError(str(error)) from None
        return value
