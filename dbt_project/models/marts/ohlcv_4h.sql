{{ config(
  unique_key=['exchange', 'symbol', 'window_start'],
  incremental_predicates=[in_window('present.window_start')],
  partition_by=['months(window_start)'],
  post_hook='{{ join_files() }}',
) }}
{{ ohlcv_bars(minutes=240) }}
