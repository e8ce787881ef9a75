"""Faults of the exchange: broken connections, wrong frames, rejected REST requests, skewed clocks, changed symbols."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from cryptolake_assets.platform.parts import PRODUCER
from reliability.drills.actions import Action, Parameters, Probe
from reliability.drills.drilled_platform import DrilledPlatform

Draw = Callable[[random.Random], Parameters]
# A REST fault matters only while trades are missing.
_DROPPED: Final[dict[str, Any]] = {"kind": "drop", "share": 0.01, "run": 5}
_DROP_FOR: Final = ("rest_limit", "rest_html", "rest_reset")
_TIMING: Final = ("part", "lasts_s")


def exchange_fault(kind: str, draw: Draw) -> Action:
    """Return the action that switches on a fault of the replay exchange, with drawn parameters, and ends it."""

    @contextmanager
    def switched_on(platform: DrilledPlatform, parameters: Parameters) -> Iterator[None]:
        switched = switches(kind, parameters)
        platform.switch_faults(*switched)
        try:
            yield
        finally:
            for fault in switched:
                platform.end_faults(str(fault["kind"]))

    return Action(
        name=kind,
        fault=switched_on,
        probe=repaired,
        draw=draw,
        lasts_s=(5.0, 45.0),
        needs=frozenset({PRODUCER}),
        # In a replay, a producer that starts with a wrong clock has no other, and would claim coverage too late.
        withholds=frozenset({PRODUCER} if kind == "clock_skew" else ()),
        weight=0.5,
    )


def switches(kind: str, parameters: Parameters) -> list[dict[str, Any]]:
    """Return the faults to switch on at the replay exchange."""
    fault = {"kind": kind, **{name: value for name, value in parameters.items() if name not in _TIMING}}
    return [_DROPPED, fault] if kind in _DROP_FOR else [fault]


def repaired(platform: DrilledPlatform, _parameters: Parameters) -> Probe:
    """Return a probe: a trade emitted from now on is in Bronze, and no gap is open."""
    stored = platform.stored_after_now(PRODUCER)
    return lambda: stored() and not platform.open_gaps()


def _share(low: float, high: float, **more: Callable[[random.Random], int | float]) -> Draw:
    """Return a function that draws a share of the frames, their seed, and more parameters."""
    return lambda draw: {
        "share": round(draw.uniform(low, high), 4),
        "seed": draw.randrange(1_000),
        **{name: of(draw) for name, of in more.items()},
    }


def _integer(low: int, high: int) -> Callable[[random.Random], int]:
    return lambda draw: draw.randint(low, high)


def _seconds(**bounds: tuple[float, float]) -> Draw:
    """Return a function that draws durations."""
    return lambda draw: {name: round(draw.uniform(*between), 1) for name, between in bounds.items()}


def _half_open(draw: random.Random) -> Parameters:
    return {"every_s": round(draw.uniform(1.0, 8.0), 1), "times": draw.randint(1, 2)}


def _rest_limit(draw: random.Random) -> Parameters:
    return {"status": draw.choice((418, 429)), "retry_after_s": draw.randint(1, 20)}


def _rest_html(draw: random.Random) -> Parameters:
    return {"status": draw.choice((200, 403, 502))}


def _clock_skew(draw: random.Random) -> Parameters:
    return {"offset_s": draw.choice((-600, 600)) + draw.randint(-20, 20)}


@contextmanager
def symbol_removed(platform: DrilledPlatform, parameters: Parameters) -> Iterator[None]:
    """Stop tracking a symbol until the fault ends, as a change of `CRYPTOLAKE_SYMBOLS` does on a running platform."""
    path = platform.settings.run_dir / "symbols.txt"
    removed = platform.emitted.feed.symbols[int(parameters["symbol"])]
    text = path.read_text(encoding="utf-8")
    path.write_text("".join(line for line in text.splitlines(keepends=True) if line.strip() != removed))
    try:
        yield
    finally:
        path.write_text(text)


_DRAWS: Final[Mapping[str, Draw]] = {
    "cut": _seconds(every_s=(2.0, 15.0)),
    "stall": _seconds(every_s=(2.0, 10.0), for_s=(3.0, 50.0)),
    "half_open": _half_open,
    "silent": lambda draw: {"after_frames": draw.randint(0, 200)},
    "duplicate": _share(0.02, 1.0, within=_integer(1, 500)),
    "reorder": _share(0.02, 0.5, window=_integer(2, 200)),
    "drop": _share(0.001, 0.1, run=_integer(1, 50)),
    "corrupt": _share(0.001, 0.2),
    "hostile": _share(0.05, 0.5),
    "rest_limit": _rest_limit,
    "rest_html": _rest_html,
    "rest_reset": lambda _: {},
    "rotation": _seconds(connection_life_s=(4.0, 20.0)),
    "shutdown": _seconds(every_s=(3.0, 12.0), notice_s=(0.5, 8.0)),
    "clock_skew": _clock_skew,
}

ACTIONS: Final = (
    *(exchange_fault(kind, draw) for kind, draw in _DRAWS.items()),
    Action(
        name="symbol_change",
        fault=symbol_removed,
        probe=repaired,
        draw=lambda draw: {"symbol": draw.randrange(2)},
        lasts_s=(3.0, 60.0),
        needs=frozenset({PRODUCER}),
        weight=0.5,
    ),
)
