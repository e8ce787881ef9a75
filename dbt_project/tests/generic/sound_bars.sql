{% test sound_bars(model) %}
{#- Bars of the window with contradictory or missing values. -#}
select *
from {{ model }}
where {{ in_window('window_start') }} and not coalesce(
  0 < low and low <= open and low <= close and low <= vwap
  and open <= high and close <= high and vwap <= high
  and 0 < volume and 0 < quote_volume and 0 < trades
  and 0 <= taker_buy_volume and taker_buy_volume <= volume
  and 0 <= taker_buy_quote_volume and taker_buy_quote_volume <= quote_volume
  and first_trade_id <= last_trade_id
  and is_complete is not null and updated_at is not null,
  false)
{% endtest %}
