"""Text of Java properties files."""

from __future__ import annotations

from collections.abc import Mapping


def properties_text(values: Mapping[str, object]) -> str:
    """Return `values` as an ASCII properties file that Java reads back unchanged."""
    return "".join(f"{_escape(key, key=True)}={_escape(str(value))}\n" for key, value in values.items())


def _escape(text: str, *, key: bool = False) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    if key:
        for char in " :=":
            text = text.replace(char, f"\\{char}")
    elif text.startswith(" "):
        text = f"\\{text}"
    units = text.encode("utf-16-be")
    codes = (int.from_bytes(units[i : i + 2], "big") for i in range(0, len(units), 2))
    return "".join(chr(code) if 0x20 <= code <= 0x7E else f"\\u{code:04x}" for code in codes)
