"""The replay exchange: serves a capture as the exchange would, with faults on demand."""
