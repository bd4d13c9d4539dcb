"""A double of pytorch-metric-learning 3: its documented contract only; not the library."""

DOUBLE = True
