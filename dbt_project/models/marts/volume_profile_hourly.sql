{{ config(
  unique_key=['exchange', 'symbol', 'window_start', 'bucket_low'],
  incremental_predicates=[in_window('present.window_start')],
  partition_by=['days(window_start)'],
) }}
with minutes as (
  select
    *,
    timestamp_micros(unix_micros(window_start) div 3600000000 * 3600000000) as hour_start,
    {{ bucket_width('vwap') }} as bucket_width
  from {{ ref('stg_ohlcv_1m') }}
  where {{ in_window('window_start') }}
),

buckets as (
  select
    exchange,
    symbol,
    hour_start,
    -- A remainder of decimals is exact.
    cast(vwap - vwap % bucket_width as decimal(18,8)) as bucket_low,
    bucket_width,
    sum(volume) as volume,
    sum(quote_volume) as quote_volume,
    sum(trades) as trades,
    count(*) as minutes_with_trades
  from minutes
  group by exchange, symbol, hour_start, vwap - vwap % bucket_width, bucket_width
)

select
  exchange,
  symbol,
  hour_start as window_start,
  {{ fits('bucket_low', 'decimal(18,8)', 'bucket_low') }} as bucket_low,
  bucket_width,
  {{ fits('volume', 'decimal(38,8)', 'volume') }} as volume,
  {{ fits('quote_volume', 'decimal(38,16)', 'quote_volume') }} as quote_volume,
  {{ fits('trades', 'bigint', 'trades') }} as trades,
  minutes_with_trades,
  current_timestamp() as updated_at
from buckets
