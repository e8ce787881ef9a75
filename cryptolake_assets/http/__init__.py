"""One HTTP client with its limits and retries, and one strict JSON reader."""
