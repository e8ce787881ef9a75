"""Colors of both themes, distinguishable with red-green color blindness. Pure.

Source: the palette of M. Okabe and K. Ito, "Color Universal Design" (2008); the dark theme uses its lighter colors.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Palette:
    up: str
    down: str
    accent: str  # of lines in addition to candles, and of controls
    neutral: str


LIGHT = Palette(up="#0072b2", down="#d55e00", accent="#7b4fa3", neutral="#767676")
DARK = Palette(up="#56b4e9", down="#e69f00", accent="#cc9ee8", neutral="#a0a0a0")


def both() -> dict[str, dict[str, str]]:
    """Return both palettes; the browser picks one by its theme."""
    return {"light": asdict(LIGHT), "dark": asdict(DARK)}
