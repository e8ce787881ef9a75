-- Days of the window with an index that differs from the source's, is outside 0 to 100, or is missing unlike in the source.
{{ config(meta={'dagster': {'ref': {'name': 'sentiment_vs_market'}}}) }}
select mart.exchange, mart.symbol, mart.trade_date, mart.fear_greed, sentiment.value
from {{ ref('sentiment_vs_market') }} as mart
left join {{ ref('stg_fear_greed') }} as sentiment on sentiment.index_date = mart.trade_date
where {{ in_window('mart.trade_date', kind='date') }}
  and (not mart.fear_greed <=> sentiment.value or mart.fear_greed not between 0 and 100)
