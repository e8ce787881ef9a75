"""Spark's fast query, as SQL text: bars from 64-bit numbers, without shuffling or hashing unique trades.

Trade ids of a stream are dense, so two bit masks per 64 ids find the duplicates. Every trade is then summed where it is
read: unique trades in the slot of their minute, copies of one trade in a separate slot, whose totals are divided by the
number of copies. If a value does not fit (a trade id above 37 bits, a sum above 64 bits, copies that differ), the query
raises and the careful query runs instead.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptolake_assets.model.measures import BAR_MEASURES, Aggregate, Function, Measure, named
from cryptolake_assets.quality.minute_bars import MARKET
from cryptolake_assets.quality.rules import RULES, RuleContext, judgeable, missing_rule_numbers, rule_number

NOT_FAST = "CRYPTOLAKE_NOT_FAST"
# Error texts that trigger the careful query; the fast query itself raises the first.
DOES_NOT_FIT = (NOT_FAST, "ARITHMETIC_OVERFLOW", "NUMERIC_VALUE_OUT_OF_RANGE", "CAST_OVERFLOW")

LARGEST_ID = 2**37 - 1  # a trade id that fits into 63 bits with the microsecond of its minute (26 bits)

# Split units of 10^-8 into three numbers of six digits, the highest first: their products fit 64 bits, and so do sums
# of three million products.
LIMBS = ("div 1000000000000", "div 1000000 % 1000000", "% 1000000")

# Price x quantity from their limbs: a sum for each power of ten, and its unit.
PRODUCTS = (
    ("p2 * q2", "100000000BD"),
    ("p2 * q1 + p1 * q2", "100BD"),
    ("p2 * q0 + p1 * q1 + p0 * q2", "0.0001BD"),
    ("p1 * q0 + p0 * q1", "0.0000000001BD"),
    ("p0 * q0", "0.0000000000000001BD"),
)

UNITS = {"price": "p", "qty": "q"}
UNIT = "0.00000001BD"
# Below 2^51 units: the double next to n / 10^8, times 10^8, is less than half a unit from n.
NEAR = "CAST(22000000 AS decimal(18,8))"

# Counts of a minute's rows; the same columns as the careful query's.
ACCOUNT = (
    "sum(copies) AS rows_in",
    "sum(IF(used, trades_in_slot, 0)) AS rows_valid",
    "sum(copies - trades_in_slot) AS rows_duplicate",
    "sum(IF(rule_number = 0 AND NOT used, trades_in_slot, 0)) AS rows_other_type",
    *(f"sum(IF(rule_number = {number}, trades_in_slot, 0)) AS dropped_{rule}" for number, rule in enumerate(RULES, 1)),
    f"sum(IF(rule_number IN ({missing_rule_numbers()}) AND flags % 4 >= 2, trades_in_slot, 0)) AS trades_dropped",
)


@dataclass
class _Steps:
    """The aggregates of a slot, by SQL text; equal ones are computed once."""

    parts: dict[str, str] = field(default_factory=dict)

    def part(self, sql: str) -> str:
        return self.parts.setdefault(sql, f"part_{len(self.parts)}")

    def merged(self, aggregate: Aggregate) -> str:
        """Return the aggregate of a minute from parts of its slots; SQL decimals for prices and volumes."""
        operand = UNITS.get(aggregate.operand, aggregate.operand)
        match aggregate.function:
            case Function.TOTAL if operand == "quote":
                sums = ((self.total(product, aggregate.by_takers), unit) for product, unit in PRODUCTS)
                return " + ".join(
                    f"CAST(CAST({total} AS decimal(19,0)) * {unit} AS decimal(34,16))" for total, unit in sums
                )
            case Function.TOTAL:
                merged = self.total(operand, aggregate.by_takers)
            case Function.LOWEST:
                merged = f"min({self.used(f'min({operand})')})"
            case Function.HIGHEST:
                merged = f"max({self.used(f'max({operand})')})"
            case Function.FIRST:
                merged = f"min_by({self.used(f'min_by({operand}, place)')}, {self.used('min(place)')})"
            case Function.LAST:
                merged = f"max_by({self.used(f'max_by({operand}, place)')}, {self.used('max(place)')})"
        return f"CAST({merged} AS decimal(19,0)) * {UNIT}" if aggregate.operand in UNITS else merged

    def used(self, sql: str) -> str:
        return f"IF(used, {self.part(sql)}, NULL)"

    def total(self, operand: str, by_takers: bool) -> str:
        condition = "used AND taker_bought" if by_takers else "used"
        return f"sum(IF({condition}, {self.part(f'sum({operand})')} div (copies div trades_in_slot), 0))"


def _units(value: str) -> str:
    """Return SQL for a decimal with 8 fractional digits as a whole number of 10^-8.

    Uses a double where that is exact: Spark multiplies decimals as objects, which costs as much as reading them.
    """
    near = f"CAST(rint(CAST({value} AS double) * 1e8D) AS bigint)"
    return f"IF({value} BETWEEN -{NEAR} AND {NEAR}, {near}, CAST({value} * 100000000 AS bigint))"


def fast_sql(trades: str, context: RuleContext) -> str:
    """Return the query over the FROM clause `trades`, which it reads twice.

    Price and quantity are units of 10^-8 (`p`, `q`) and their `LIMBS`; `place` is the microsecond of the minute with
    the id; `flags` is 4 x rule_number + 2 if MARKET + 1 if the taker bought. A block is 64 ids; a bit of its mask in
    `repeats` is a trade that may have copies. A hash collision of two blocks only adds to these. A slot below 0
    holds the unique trades of a minute with equal flags, a slot from 0 on the copies of one trade.
    """
    steps = _Steps()

    def merged(measure: Measure) -> str | None:
        return steps.merged(measure.aggregate) if measure.aggregate is not None else None

    measures = named(BAR_MEASURES, merged)
    parts = ", ".join(f"{sql} AS {name}" for sql, name in steps.parts.items())
    limbs = ", ".join(f"{value} {limb} AS {value}{2 - place}" for value in "pq" for place, limb in enumerate(LIMBS))
    block = "xxhash64(exchange, symbol, stream, trade_id div 64)"
    bit = "CAST(trade_id & 63 AS int)"
    content = "IF(slot < 0, NULL, xxhash64(place, p, q, first_trade_id, last_trade_id, flags))"
    return f"""
WITH blocks AS (
  SELECT exchange, symbol, stream, trade_id div 64 AS block, count(*) AS copies,
    bit_or(shiftleft(1L, {bit})) AS seen, bit_xor(shiftleft(1L, {bit})) AS odd
  FROM {trades} GROUP BY exchange, symbol, stream, block
), repeats AS (
  SELECT xxhash64(exchange, symbol, stream, block) AS block,
    bit_or(IF(copies = bit_count(odd) + 2 * bit_count(seen & ~odd), seen & ~odd, -1L)) AS mask
  FROM blocks WHERE copies > bit_count(seen) GROUP BY 1
), numbers AS (
  SELECT exchange, symbol, stream, trade_id, {block} AS block, unix_micros(event_time) div 60000000 AS minute,
    shiftleft(unix_micros(event_time) % 60000000, 37) | trade_id AS place,
    {_units("price")} AS p, {_units("qty")} AS q, first_trade_id, last_trade_id,
    CASE WHEN trade_id NOT BETWEEN 0 AND {LARGEST_ID} THEN raise_error('{NOT_FAST}')
      ELSE 4 * {rule_number(context)} + IF(trade_type = '{MARKET}', 2, 0) + IF(side = 'buy', 1, 0) END AS flags
  FROM {judgeable(context, trades)}
), slotted AS (
  SELECT /*+ BROADCAST(repeats) */ numbers.*, {limbs},
    IF(mask IS NOT NULL AND shiftright(mask, {bit}) & 1 = 1, trade_id, -1 - flags) AS slot
  FROM numbers LEFT JOIN repeats ON numbers.block = repeats.block
), slots AS (
  SELECT exchange, symbol, stream, minute, slot, count(*) AS copies, min(flags) AS flags,
    min({content}) AS lowest_content, max({content}) AS highest_content, {parts}
  FROM slotted GROUP BY exchange, symbol, stream, minute, slot
), judged AS (
  SELECT *, flags div 4 AS rule_number, flags % 2 = 1 AS taker_bought, flags IN (2, 3) AS used,
    CASE WHEN slot < 0 THEN copies WHEN lowest_content = highest_content THEN 1
      ELSE raise_error('{NOT_FAST}') END AS trades_in_slot
  FROM slots
)
SELECT exchange, symbol, stream, timestamp_micros(minute * 60000000) AS window_start,
  {measures},
  {", ".join(ACCOUNT)}
FROM judged GROUP BY exchange, symbol, stream, minute
"""
