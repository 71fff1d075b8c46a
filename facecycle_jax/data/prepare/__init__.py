"""Raw data sets into records."""
