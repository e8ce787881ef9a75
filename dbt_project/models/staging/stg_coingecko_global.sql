select snapshot_hour, total_market_cap, btc_dominance
from {{ at_snapshot(source('silver', 'coingecko_global'), 'CRYPTOLAKE_COINGECKO_SNAPSHOT') }}
