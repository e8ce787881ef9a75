-- Days at the highest close with a drawdown, closes above the highest close, and drawdowns outside [0, 1).
{{ config(meta={'dagster': {'ref': {'name': 'daily_returns'}}}) }}
select *
from {{ ref('daily_returns') }}
where {{ in_window('trade_date', kind='date') }}
  and (close > highest_close or drawdown < 0 or drawdown >= 1 or (close = highest_close and drawdown != 0))
