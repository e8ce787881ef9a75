select
  symbol, trade_date, close, vwap, total_volume, total_quote_volume, realised_volatility, is_complete
from {{ at_snapshot(source('gold', 'futures_daily_stats'), 'CRYPTOLAKE_GOLD_SNAPSHOT') }}
