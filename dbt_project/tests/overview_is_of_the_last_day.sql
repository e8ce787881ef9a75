-- Symbols with a latest bar more than a day older than the newest one, or a price outside the day's range.
{{ config(meta={'dagster': {'ref': {'name': 'market_overview'}}}) }}
select *
from {{ ref('market_overview') }}
where latest_minute <= (select max(latest_minute) from {{ ref('market_overview') }}) - interval 24 hours
  or last_price not between low_24h and high_24h
