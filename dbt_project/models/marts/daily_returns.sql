-- A corrected day changes the return of the next day and the drawdown of all later days, so every day from the window's
-- start to the last one is recomputed. Gold has one row per exchange, symbol and day.
{{ config(
  unique_key=['exchange', 'symbol', 'trade_date'],
  incremental_predicates=[in_window('present.trade_date', kind='date', open_ended=true)],
  partition_by=['years(trade_date)'],
  post_hook='{{ join_files() }}',
) }}
with days as (
  select
    exchange,
    symbol,
    trade_date,
    close,
    case
      when lag(trade_date) over by_day = date_sub(trade_date, 1) then lag(close) over by_day
    end as previous_close,
    max(close) over by_day as highest_close,
    realised_volatility,
    is_complete
  from {{ ref('stg_daily_stats') }}
  window by_day as (partition by exchange, symbol order by trade_date)
),

ratios as (
  select *, cast(close as double) / cast(previous_close as double) as quotient
  from days
)

select
  exchange,
  symbol,
  trade_date,
  close,
  previous_close,
  -- Near 1 the quotient loses the digits of the move; far from 1 the difference does.
  case
    when quotient > 0.5 and quotient < 2
      then log1p(cast(close - previous_close as double) / cast(previous_close as double))
    else ln(quotient)
  end as log_return,
  realised_volatility,
  highest_close,
  {{ fits(exact_ratio('highest_close - close', 8, 'highest_close', 8), 'decimal(18,8)', 'drawdown') }} as drawdown,
  is_complete,
  current_timestamp() as updated_at
from ratios
where {{ in_window('trade_date', kind='date', open_ended=true) }}
