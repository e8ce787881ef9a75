"""REST paths of USD-M futures that batch sources request and the replay exchange serves."""

FUNDING_PATH = "/fapi/v1/fundingRate"
OPEN_INTEREST_PATH = "/fapi/v1/openInterest"
OPEN_INTEREST_HISTORY_PATH = "/futures/data/openInterestHist"
