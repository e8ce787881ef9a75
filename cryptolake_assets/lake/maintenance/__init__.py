"""Table maintenance: compaction, manifest rewrite, snapshot expiry, orphan removal."""
