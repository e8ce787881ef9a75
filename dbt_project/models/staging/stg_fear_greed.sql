select index_date, value, classification
from {{ at_snapshot(source('silver', 'fear_greed_daily'), 'CRYPTOLAKE_FEAR_GREED_SNAPSHOT') }}
