"""CryptoLake: a crypto market-data lakehouse as a Dagster asset graph."""
