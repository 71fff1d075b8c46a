"""What learned codes are judged by."""
