"""Where tracks come from: folders, lists, records and synthetic faces."""
