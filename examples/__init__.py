"""Scripts to copy; `kit` has what they share; `emoji`, `text`, `papers` are larger experiments."""
