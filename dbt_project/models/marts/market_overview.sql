-- "Now" is the newest minute of any symbol of any market, so that all symbols are compared at one time. The window variables do not
-- apply: the table always shows the latest state.
{{ config(unique_key=['exchange', 'symbol']) }}
with newest as (
  select max(window_start) as minute from {{ ref('stg_ohlcv_1m') }}
),

minutes as (
  select bars.*, bars.window_start > newest.minute - interval 24 hours as is_recent
  from {{ ref('stg_ohlcv_1m') }} as bars
  cross join newest
  where bars.window_start > newest.minute - interval 48 hours
),

symbols as (
  select
    exchange,
    symbol,
    max(window_start) as latest_minute,
    max_by(is_complete, window_start) as is_complete,
    max_by(close, window_start) as last_price,
    max_by(close, window_start) filter (where not is_recent) as price_24h_ago,
    max(high) filter (where is_recent) as high_24h,
    min(low) filter (where is_recent) as low_24h,
    sum(volume) filter (where is_recent) as volume_24h,
    sum(quote_volume) filter (where is_recent) as quote_volume_24h,
    sum(trades) filter (where is_recent) as trades_24h
  from minutes
  group by exchange, symbol
  having count_if(is_recent) > 0
)

select
  exchange,
  symbol,
  latest_minute,
  is_complete,
  last_price,
  price_24h_ago,
  case
    when price_24h_ago is not null then cast(
      case when last_price < price_24h_ago then -1 else 1 end
      * {{ fits(exact_ratio('abs(last_price - price_24h_ago)', 8, 'price_24h_ago', 8), 'decimal(18,8)', 'change_24h') }}
      as decimal(18,8))
  end as change_24h,
  high_24h,
  low_24h,
  {{ fits('volume_24h', 'decimal(38,8)', 'volume_24h') }} as volume_24h,
  {{ fits('quote_volume_24h', 'decimal(38,16)', 'quote_volume_24h') }} as quote_volume_24h,
  {{ fits('trades_24h', 'bigint', 'trades_24h') }} as trades_24h,
  current_timestamp() as updated_at
from symbols
