-- Symbols whose latest bar is over a day behind the newest one, or whose price is outside the day's range.
{{ config(meta={'dagster': {'ref': {'name': 'market_overview'}}}) }}
select *
from {{ ref('market_overview') }}
where latest_minute <= (select max(latest_minute) from {{ ref('market_overview') }}) - interval 24 hours
  or last_price not between low_24h and high_24h
