"""Paths of the futures exchange's REST interface that a batch source asks and the replay exchange answers."""

FUNDING_PATH = "/fapi/v1/fundingRate"
OPEN_INTEREST_PATH = "/fapi/v1/openInterest"
OPEN_INTEREST_HISTORY_PATH = "/futures/data/openInterestHist"
