"""What keeps tables small and fast: compaction, expiry of snapshots, removal of orphans."""
