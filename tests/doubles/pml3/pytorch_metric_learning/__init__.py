"""A double of pytorch-metric-learning 3: its documented contract only; not the library.

Absent on purpose, as release 3 has removed them: trainers, testers, ``__version__``, recorded
statistics, ``DoNothingReducer`` and ``utils`` (but ``utils.indexing``). Absent because nothing here
needs them: evaluation and distributed. What the documentation leaves open stands in ``_guesses``.
"""

DOUBLE = True
