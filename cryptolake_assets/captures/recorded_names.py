"""File names of recorded batch-source responses in a capture directory. Imports nothing."""

FEAR_GREED_FILE = "fear_greed.json"
COINGECKO_GLOBAL_FILE = "coingecko_global.json"
COINGECKO_PAGE_FILES = "coingecko_markets_*.json"  # `*` is the page number, from 1
FUNDING_FILES = "funding_rate*.json"  # responses of `/fapi/v1/fundingRate`, any symbols
OPEN_INTEREST_FILES = "open_interest_*.json"
# Responses of `/futures/data/openInterestHist` with a period of five minutes, any symbols.
OPEN_INTEREST_HISTORY_FILES = "open_interest_history*.json"
OPEN_INTEREST_PRESENT_FILES = "open_interest_present*.json"  # responses of `/fapi/v1/openInterest`, one per file
