"""Writers and readers of one lake, interleaved in a seeded order on a real SQLite catalog and real files."""
