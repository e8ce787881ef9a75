"""The data model: events, tables, markets, symbols. Pure."""
