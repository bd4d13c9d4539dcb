"""Emoji names in many languages: retrieval of text, on frozen features and with a whole encoder."""
