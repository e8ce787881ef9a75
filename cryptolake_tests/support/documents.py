"""The shell commands in a document."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

_CODE = re.compile(r"^```(\w*)\n(.*?)^```|`([^`\n]+)`", re.MULTILINE | re.DOTALL)


def commands(path: Path) -> Iterator[list[str]]:
    """Yield the shell commands in a document's code, split into words.

    Leading variables and trailing comments are removed, commands with `…` are skipped, lines that end in a backslash
    are joined with the next.
    """
    for language, block, span in _CODE.findall(path.read_text(encoding="utf-8")):
        if language not in ("", "sh"):
            continue
        for line in (block or span).replace("\\\n", " ").splitlines():
            try:
                words = shlex.split(line, comments=True)
            except ValueError:
                continue
            while words and (re.match(r"[A-Z_]+=", words[0]) or words[0] == "export"):
                words.pop(0)
            if words and not any("…" in word for word in words):
                yield words
