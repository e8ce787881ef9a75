select symbol, trade_date, close, realised_volatility, is_complete
from {{ at_snapshot(source('gold', 'futures_daily_stats'), 'CRYPTOLAKE_GOLD_SNAPSHOT') }}
