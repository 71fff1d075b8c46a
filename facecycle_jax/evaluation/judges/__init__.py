"""Independent judges: face networks and landmarks of other authors."""
