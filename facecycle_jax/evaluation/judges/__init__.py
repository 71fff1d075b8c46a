"""Judges that are not FaceCycle's: face networks and landmarks of other authors."""
