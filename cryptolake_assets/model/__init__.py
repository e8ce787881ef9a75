"""What flows and where it lands. Pure."""
