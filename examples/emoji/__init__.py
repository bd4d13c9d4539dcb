"""Emoji by vendor: the data, and a training on it."""
