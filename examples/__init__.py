"""Scripts to copy; what they share is in `kit`, two larger experiments in `emoji` and `papers`."""
