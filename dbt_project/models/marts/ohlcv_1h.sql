{{ config(
  unique_key=['exchange', 'symbol', 'window_start'],
  incremental_predicates=[in_window('present.window_start')],
  partition_by=['days(window_start)'],
) }}
{{ ohlcv_bars(minutes=60) }}
