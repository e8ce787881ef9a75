"""The replay exchange: serves a capture over the exchange's protocol, with configurable faults."""
