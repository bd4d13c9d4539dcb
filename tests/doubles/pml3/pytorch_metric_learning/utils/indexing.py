"""A double of pytorch-metric-learning 3: its documented contract only; not the library.

The names of its functions could not be read, so there are none.
"""

DOUBLE = True

__all__: list[str] = []
