"""The code blocks of the documents, and what a block needs beyond a running platform."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptolake_assets.settings import PROJECT_ROOT

DOCUMENTS = (
    PROJECT_ROOT / "README.md",
    PROJECT_ROOT / "CONTRIBUTING.md",
    *sorted((PROJECT_ROOT / "docs").glob("*.md")),
)
# Values of the comment `<!-- needs: … -->` above a block that no test runs, each with the reason.
NEEDS = {
    "the exchange": "reads live data, or the exchange's public archive",
    "docker": "runs containers",
    "time": "takes minutes, or starts a second platform; `.ci/run` and other tests run the same",
    "context": "is a part of a program, or configuration of another product; another test compares it with its source",
}
RUN_LANGUAGES = {"sh", "python", "sql"}
DRAWN_LANGUAGES = {"mermaid", ""}  # diagrams and directory trees

_BLOCK = re.compile(r"(?:^<!-- needs: (?P<needs>[^>]+) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```", re.M | re.S)


@dataclass(frozen=True)
class CodeBlock:
    """A fenced block: its document, line number, language, text, and the value of its `needs` comment, if any."""

    path: Path
    line: int
    language: str
    text: str
    needs: str | None

    def __str__(self) -> str:
        return f"{self.path.relative_to(PROJECT_ROOT)}:{self.line}"


def code_blocks() -> Iterator[CodeBlock]:
    """Return the blocks of all documents except drawings."""
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        for match in _BLOCK.finditer(text):
            if match["language"] not in DRAWN_LANGUAGES:
                line = text.count("\n", 0, match.start("text"))
                yield CodeBlock(path, line, match["language"], match["text"], match["needs"])


def runnable_blocks() -> list[CodeBlock]:
    """Return the blocks that run on a platform with the demo's data, in the order of the documents."""
    return [block for block in code_blocks() if block.language in RUN_LANGUAGES and block.needs is None]
