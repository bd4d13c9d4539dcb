"""Scores of an embedding. Not loaded by ``import loopml``, as faiss is not."""

from loopml.evaluation.accuracy import RetrievalAccuracy

__all__ = ["RetrievalAccuracy"]
