"""Binance protocol: WebSocket frames, REST and its rate limits, the public archive."""
