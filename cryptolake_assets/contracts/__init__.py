"""The streams beside trades: for each its event, how the exchange's frames become it, its tables and its checks."""
