"""Pictures and tracks in, batches out."""
