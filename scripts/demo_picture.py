"""Draw docs/images/demo.svg: the demo's tables, from the running platform of the current settings."""

from __future__ import annotations

import io
import re
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

from cryptolake_assets.cli.demo import show_bars, show_daily
from cryptolake_assets.settings import get_settings

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "images" / "demo.svg"
WIDTH = 136  # characters per line, for the widest table

# Rich's own format loads its font from a server, which a picture in a README must not do; any monospaced font works.
SVG_FORMAT = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL).replace(
    "font-family: Fira Code, monospace", "font-family: ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
)


def main() -> None:
    settings = get_settings()
    console = Console(record=True, width=WIDTH, file=io.StringIO(), highlight=False, force_terminal=True)
    console.print("[bold green]$[/] make demo\n")
    show_bars(settings, console)
    console.print()
    show_daily(settings, console)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    # With a fixed id the file changes only if its content does.
    console.save_svg(str(PICTURE), title="make demo", code_format=SVG_FORMAT, unique_id="cryptolake-demo")
    print(f"wrote {PICTURE}")


if __name__ == "__main__":
    main()
