-- All values are copied from Gold or a batch source unchanged: nothing is computed or rounded.
{{ config(
  unique_key=['exchange', 'symbol', 'trade_date'],
  incremental_predicates=[in_window('present.trade_date', kind='date')],
  partition_by=['years(trade_date)'],
  post_hook='{{ join_files() }}',
) }}
with market as (
  select
    cast(snapshot_hour as date) as snapshot_date,
    max_by(total_market_cap, snapshot_hour) as total_market_cap,
    max_by(btc_dominance, snapshot_hour) as btc_dominance
  from {{ ref('stg_coingecko_global') }}
  where {{ in_window('snapshot_hour') }}
  group by cast(snapshot_hour as date)
)

select
  days.exchange,
  days.symbol,
  days.trade_date,
  days.close,
  days.vwap,
  days.total_volume,
  days.total_quote_volume,
  days.realised_volatility,
  sentiment.value as fear_greed,
  sentiment.classification as fear_greed_classification,
  market.total_market_cap,
  market.btc_dominance,
  days.is_complete,
  current_timestamp() as updated_at
from {{ ref('stg_daily_stats') }} as days
left join {{ ref('stg_fear_greed') }} as sentiment on sentiment.index_date = days.trade_date
left join market on market.snapshot_date = days.trade_date
where {{ in_window('days.trade_date', kind='date') }}
