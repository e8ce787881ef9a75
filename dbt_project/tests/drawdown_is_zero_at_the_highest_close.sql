-- Days at their highest close with a drawdown, and days below it that are said to be above.
{{ config(meta={'dagster': {'ref': {'name': 'daily_returns'}}}) }}
select *
from {{ ref('daily_returns') }}
where {{ in_window('trade_date', kind='date') }}
  and (close > highest_close or drawdown < 0 or drawdown >= 1 or (close = highest_close and drawdown != 0))
