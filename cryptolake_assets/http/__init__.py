"""HTTP clients with rate limits and retries, and a strict JSON reader."""
