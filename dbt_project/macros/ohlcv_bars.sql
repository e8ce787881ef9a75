{% macro ohlcv_bars(minutes) %}
{#- Aggregate one-minute bars to bars of `minutes`, which start at multiples of it since midnight UTC. -#}
{%- set micros = minutes * 60 * 1000000 -%}
with minutes as (
  select
    *,
    timestamp_micros(unix_micros(window_start) div {{ micros }} * {{ micros }}) as bar_start
  from {{ ref('stg_ohlcv_1m') }}
  where {{ in_window('window_start') }}
),

bars as (
  select
    exchange,
    symbol,
    bar_start,
    min_by(open, window_start) as open,
    max(high) as high,
    min(low) as low,
    max_by(close, window_start) as close,
    sum(volume) as volume,
    sum(quote_volume) as quote_volume,
    sum(trades) as trades,
    sum(taker_buy_volume) as taker_buy_volume,
    sum(taker_buy_quote_volume) as taker_buy_quote_volume,
    min(first_trade_id) as first_trade_id,
    max(last_trade_id) as last_trade_id,
    count(*) as minutes_with_trades,
    every(is_complete) as minutes_are_complete,
    sum(trades_dropped) as trades_dropped,
    if(count(evidence) = count(*), max_by(evidence, array_position(array('ids', 'barrier', 'klines'), evidence)), null)
      as weakest_evidence
  from minutes
  group by exchange, symbol, bar_start
),

complete_days as (
  select exchange, symbol, trade_date
  from {{ ref('stg_daily_stats') }}
  where is_complete and {{ in_window('trade_date', kind='date') }}
),

judged as (
  select
    bars.*,
    -- A minute without a bar is proven to be empty only when the entire day is covered.
    bars.minutes_are_complete and (bars.minutes_with_trades = {{ minutes }} or complete_days.symbol is not null)
      as is_complete
  from bars
  left join complete_days
    on complete_days.exchange = bars.exchange
    and complete_days.symbol = bars.symbol
    and complete_days.trade_date = cast(bars.bar_start as date)
)

select
  bars.exchange,
  bars.symbol,
  bars.bar_start as window_start,
  bars.open,
  bars.high,
  bars.low,
  bars.close,
  {{ fits('bars.volume', 'decimal(38,8)', 'volume') }} as volume,
  {{ fits('bars.quote_volume', 'decimal(38,16)', 'quote_volume') }} as quote_volume,
  {{ fits(exact_ratio('bars.quote_volume', 16, 'bars.volume', 8), 'decimal(18,8)', 'vwap') }} as vwap,
  {{ fits('bars.trades', 'bigint', 'trades') }} as trades,
  {{ fits('bars.taker_buy_volume', 'decimal(38,8)', 'taker_buy_volume') }} as taker_buy_volume,
  {{ fits('bars.taker_buy_quote_volume', 'decimal(38,16)', 'taker_buy_quote_volume') }} as taker_buy_quote_volume,
  bars.first_trade_id,
  bars.last_trade_id,
  bars.is_complete,
  current_timestamp() as updated_at,
  bars.trades_dropped,
  case when bars.is_complete then bars.weakest_evidence end as evidence
from judged as bars
{% endmacro %}
