"""The core of the platform on virtual time: one seed drives exchange, broker, REST, clock and lake."""
