{% test as_much_as_gold(model) %}
{#- Days of the window that are missing in the mart or in Gold, or differ in close or volume. -#}
select gold.exchange, gold.symbol, gold.trade_date, gold.close, mart.close as mart_close
from (select * from {{ model }} where {{ in_window('trade_date', kind='date') }}) as mart
full outer join (
  select * from {{ ref('stg_daily_stats') }} where {{ in_window('trade_date', kind='date') }}
) as gold
  on gold.exchange = mart.exchange and gold.symbol = mart.symbol and gold.trade_date = mart.trade_date
where not (gold.close <=> mart.close and gold.total_quote_volume <=> mart.total_quote_volume)
  or gold.symbol is null or mart.symbol is null
{% endtest %}
