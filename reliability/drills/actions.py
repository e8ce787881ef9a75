"""What a drill can do: actions that declare what they need, withhold and give, and faults drawn from them by a seed.

A fault is written as `kill:part=kafka,at_s=3.5,lasts_s=0`; spaces separate the faults of a round, `/` the rounds.
Such a list repeats a run.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from cryptolake_assets.errors import ArgumentError

if TYPE_CHECKING:
    from reliability.drills.drilled_platform import DrilledPlatform

Parameters = dict[str, str | int | float]
Probe = Callable[[], bool]
Round = tuple["Fault", ...]

PART: Final = "{part}"  # stands for the drawn part in `needs` and `withholds`
NO_PART: Final = ""
ROUNDS_APART: Final = "/"
ALONE_SHARE: Final = 0.55  # of the rounds with one fault; the others have two, and some three
THREE_SHARE: Final = 0.15
EVEN_SHARE: Final = 0.8  # of the draws among the least drilled; the others are among all
FIRST_AT_S: Final = (0.5, 8.0)
NEXT_AFTER_S: Final = (0.0, 12.0)


@dataclass(frozen=True, kw_only=True)
class Action:
    """A fault, or a step such as a compaction, that a drill can do at any time.

    `fault` returns a context manager: the fault begins when it is entered and ends when it is left, after `lasts_s`.
    `probe` is called when the fault has ended, and returns a function that is polled until it is true: the affected
    part works again. An error of the polled function counts as false.
    """

    name: str
    fault: Callable[[DrilledPlatform, Parameters], AbstractContextManager[None]]
    probe: Callable[[DrilledPlatform, Parameters], Probe]
    parts: tuple[str, ...] = (NO_PART,)  # drawn evenly
    draw: Callable[[random.Random], Parameters] = lambda _: {}  # parameters in addition to `part`
    lasts_s: tuple[float, float] = (0.0, 0.0)
    needs: frozenset[str] = frozenset()  # capabilities of the platform, such as a running part
    withholds: frozenset[str] = frozenset()  # capabilities that other faults cannot rely on while it lasts
    gives: frozenset[str] = frozenset()  # capabilities after its end
    weight: float = 1.0

    def needed(self, part: str) -> frozenset[str]:
        """Return the capabilities that the action needs on this part."""
        return _with_part(self.needs, part)

    def withheld(self, part: str) -> frozenset[str]:
        """Return the capabilities that the action withholds on this part."""
        return _with_part(self.withholds, part)


def _with_part(names: frozenset[str], part: str) -> frozenset[str]:
    return frozenset(part if name == PART else name for name in names)


@dataclass(frozen=True)
class Fault:
    """A drawn action: `at_s` seconds after its round's begin, for `lasts_s` seconds."""

    action: str
    part: str = NO_PART
    at_s: float = 0.0
    lasts_s: float = 0.0
    parameters: Mapping[str, str | int | float] = field(default_factory=dict)

    @property
    def given(self) -> Parameters:
        """The parameters for the action's functions: `part`, `lasts_s` and its own."""
        return {"part": self.part, "lasts_s": self.lasts_s, **self.parameters}

    @property
    def key(self) -> tuple[str, str]:
        return self.action, self.part

    def __str__(self) -> str:
        values = {"part": self.part, "at_s": self.at_s, "lasts_s": self.lasts_s, **self.parameters}
        return f"{self.action}:{','.join(f'{name}={value}' for name, value in values.items() if value != NO_PART)}"


def rounds_text(rounds: Iterable[Round]) -> str:
    """Return rounds as the text that `parse_rounds` reads."""
    return f" {ROUNDS_APART} ".join(" ".join(map(str, faults)) for faults in rounds)


def parse_rounds(text: str, actions: Iterable[Action]) -> list[Round]:
    """Return the rounds of a list of actions. Raises `ArgumentError` for an unknown action or part."""
    known = {(action.name, part) for action in actions for part in action.parts}
    rounds = []
    for words in text.split(ROUNDS_APART):
        faults = tuple(map(_parse_fault, words.split()))
        for fault in faults:
            if fault.key not in known:
                raise ArgumentError("--list", f"{fault.action} of {fault.part or 'no part'} is not an action.")
        rounds.append(faults)
    return rounds


def _parse_fault(word: str) -> Fault:
    name, _, rest = word.partition(":")
    values: Parameters = {}
    for item in filter(None, rest.split(",")):
        key, _, value = item.partition("=")
        values[key] = _parse_value(value)
    part, at_s, lasts_s = (
        values.pop(key, default) for key, default in (("part", NO_PART), ("at_s", 0), ("lasts_s", 0))
    )
    return Fault(name, str(part), float(at_s), float(lasts_s), values)


def _parse_value(text: str) -> str | int | float:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def selected(actions: Iterable[Action], only: str) -> list[Action]:
    """Return the actions of a selection such as `kill,pause:kafka`, restricted to the named parts.

    All for an empty one. Raises `ArgumentError` for an unknown name.
    """
    actions = list(actions)
    if not only:
        return actions
    parts: dict[str, list[str]] = {}
    for item in only.split(","):
        name, _, part = item.strip().partition(":")
        parts.setdefault(name, []).extend([part] if part else [])
    known = {action.name: action for action in actions}
    for name, named in parts.items():
        if name not in known or not set(named) <= set(known[name].parts):
            listed = ", ".join(f"{a.name} ({', '.join(a.parts)})" if a.parts != (NO_PART,) else a.name for a in actions)
            raise ArgumentError("--only", f"{name} is not one of {listed}.")
    return [_restricted(known[name], named) for name, named in parts.items()]


def _restricted(action: Action, parts: Sequence[str]) -> Action:
    from dataclasses import replace

    return replace(action, parts=tuple(parts)) if parts else action


class Drawer:
    """Draws rounds of faults: the same seed, actions and earlier drills give the same rounds.

    `drilled` counts the earlier faults by action and part: the least drilled ones are preferred, so that the list is
    covered evenly over runs. No fault lasts longer than `longest_s`.
    """

    def __init__(
        self, actions: Sequence[Action], seed: int, drilled: Mapping[tuple[str, str], int], longest_s: float
    ) -> None:
        self._actions = actions
        self._draw = random.Random(seed)
        self._drilled = Counter(drilled)
        self._longest_s = longest_s

    def next_round(self, capabilities: frozenset[str]) -> Round:
        """Return the faults of the next round; empty if the needs of no action hold."""
        alone = self._draw.random()
        count = 1 if alone < ALONE_SHARE else 3 if alone > 1 - THREE_SHARE else 2
        faults: list[Fault] = []
        at_s = self._draw.uniform(*FIRST_AT_S)
        for _ in range(count):
            if (fault := self._fault(at_s, capabilities - self._withheld(faults, at_s))) is not None:
                faults.append(fault)
                self._drilled[fault.key] += 1
            at_s += self._draw.uniform(*NEXT_AFTER_S)
        return tuple(faults)

    def _withheld(self, faults: Sequence[Fault], at_s: float) -> frozenset[str]:
        named = {action.name: action for action in self._actions}
        lasting = (fault for fault in faults if at_s <= fault.at_s + fault.lasts_s)
        return frozenset().union(*(named[fault.action].withheld(fault.part) for fault in lasting))

    def _fault(self, at_s: float, capabilities: frozenset[str]) -> Fault | None:
        candidates = [
            (action, part) for action in self._actions for part in action.parts if action.needed(part) <= capabilities
        ]
        if not candidates:
            return None
        action, part = self._candidate(candidates)
        shortest, longest = (min(bound, self._longest_s) for bound in action.lasts_s)
        # Short faults are as interesting as long ones, and many of them fit into a run: even in the logarithm.
        lasts_s = math.exp(self._draw.uniform(math.log(shortest), math.log(longest))) if shortest > 0 else 0.0
        parameters = action.draw(self._draw)
        return Fault(action.name, part, round(at_s, 2), round(lasts_s, 2), parameters)

    def _candidate(self, candidates: Sequence[tuple[Action, str]]) -> tuple[Action, str]:
        if self._draw.random() < EVEN_SHARE:
            drilled = [self._drilled[action.name, part] / action.weight for action, part in candidates]
            fewest = min(drilled)
            candidates = [one for one, times in zip(candidates, drilled, strict=True) if times == fewest]
        weights = [action.weight / len(action.parts) for action, _ in candidates]
        return self._draw.choices(candidates, weights)[0]
