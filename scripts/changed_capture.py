"""Makes a capture directory from the shipped one, to see that the demo tells the truth about it.

.venv/bin/python -m scripts.changed_capture trade DIR     one trade has another price; prints its bar
.venv/bin/python -m scripts.changed_capture symbol DIR    another symbol, day, ids and prices; prints the symbol
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

from cryptolake_assets.settings import DEMO_CAPTURE_DIR
from cryptolake_tests.support.captures import shifted_capture, with_changed_trade

FROM_SYMBOL, TO_SYMBOL = "BTCUSDT", "SOLUSDT"


def main(kind: str, directory: str) -> None:
    target = Path(directory)
    if kind == "trade":
        changed = with_changed_trade(DEMO_CAPTURE_DIR, target)
        minute = datetime.fromtimestamp(changed.window_start_ms / 1000, UTC)
        # As the demo writes the bar.
        print(f"{changed.symbol}  {minute:%m-%d %H:%M}")
    elif kind == "symbol":
        shifted_capture(
            DEMO_CAPTURE_DIR, target, {FROM_SYMBOL: TO_SYMBOL}, days=200, id_shift=1_000_000, price_factor="0.002"
        )
        print(TO_SYMBOL)
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
