"""Names of the files in a capture's directory that hold recorded answers of batch sources. Nothing is imported here."""

FEAR_GREED_FILE = "fear_greed.json"
COINGECKO_GLOBAL_FILE = "coingecko_global.json"
COINGECKO_PAGE_FILES = "coingecko_markets_*.json"
"""`*` is the number of the page, from 1."""
