"""The exchange's protocol: frames, REST and its limits, the public archive."""
