{% for table, snapshot in [
  ('futures_ohlcv_1m', 'CRYPTOLAKE_SILVER_SNAPSHOT'),
  ('spot_ohlcv_1m', 'CRYPTOLAKE_SPOT_SILVER_SNAPSHOT'),
] -%}
select
  exchange, symbol, window_start, open, high, low, close, volume, quote_volume, vwap, trades,
  taker_buy_volume, taker_buy_quote_volume, first_trade_id, last_trade_id, is_complete,
  -- null in bars of earlier releases
  coalesce(trades_dropped, 0) as trades_dropped,
  evidence
from {{ at_snapshot(source('silver', table), snapshot) }}
{{ 'union all' if not loop.last }}
{% endfor %}
