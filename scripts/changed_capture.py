"""Make a changed copy of the shipped capture, to test that the demo detects the difference.

`.venv/bin/python -m scripts.changed_capture DIR`: one trade has another price, so its bar differs from the official
kline; a third symbol has no official klines. Print the changed bar and the third symbol, a line each.
"""

from __future__ import annotations

import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from cryptolake_assets.settings import DEMO_CAPTURE_DIR
from cryptolake_tests.support.captures import joined_captures, shifted_capture, with_changed_trade

FROM_SYMBOL, TO_SYMBOL = "BTCUSDT", "SOLUSDT"


def main(directory: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        changed_dir, other_dir = Path(name) / "changed", Path(name) / "other"
        changed = with_changed_trade(DEMO_CAPTURE_DIR, changed_dir)
        symbols = {FROM_SYMBOL: TO_SYMBOL}
        shifted_capture(DEMO_CAPTURE_DIR, other_dir, symbols, days=0, id_shift=1_000_000, price_factor="0.002")
        joined_captures(Path(directory), changed_dir, other_dir)
    minute = datetime.fromtimestamp(changed.window_start_ms / 1000, UTC)
    # The bar in the format of the demo.
    print(f"{changed.symbol}  {minute:%m-%d %H:%M}")
    print(TO_SYMBOL)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(sys.argv[1])
