{% test as_much_as_silver(model) %}
{#- Symbols whose volumes or trades over the window differ from those of the one-minute bars. -#}
with in_mart as (
  select exchange, symbol, sum(volume) as volume, sum(quote_volume) as quote_volume, sum(trades) as trades
  from {{ model }}
  where {{ in_window('window_start') }}
  group by exchange, symbol
),

in_silver as (
  select exchange, symbol, sum(volume) as volume, sum(quote_volume) as quote_volume, sum(trades) as trades
  from {{ ref('stg_ohlcv_1m') }}
  where {{ in_window('window_start') }}
  group by exchange, symbol
)

select
  exchange, symbol,
  in_mart.volume, in_silver.volume as silver_volume, in_mart.trades, in_silver.trades as silver_trades
from in_mart
full outer join in_silver using (exchange, symbol)
where not (
  in_mart.volume <=> in_silver.volume
  and in_mart.quote_volume <=> in_silver.quote_volume
  and in_mart.trades <=> in_silver.trades
)
{% endtest %}
