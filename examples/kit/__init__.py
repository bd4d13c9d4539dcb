"""What the examples share: the glyphs, a training, files written whole."""
