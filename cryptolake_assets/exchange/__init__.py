"""The exchange: its WebSocket and REST protocol as clients, captures of it, and the replay exchange."""
