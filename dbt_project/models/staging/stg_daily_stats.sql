{% for table, snapshot in [
  ('futures_daily_stats', 'CRYPTOLAKE_GOLD_SNAPSHOT'),
  ('spot_daily_stats', 'CRYPTOLAKE_SPOT_GOLD_SNAPSHOT'),
] -%}
select
  exchange, symbol, trade_date, close, vwap, total_volume, total_quote_volume, realised_volatility, is_complete
from {{ at_snapshot(source('gold', table), snapshot) }}
{{ 'union all' if not loop.last }}
{% endfor %}
