"""Losses on hard negatives, as pytorch-metric-learning losses."""

from loopml.losses.hphn import HPHNTripletLoss
from loopml.losses.n_pair import NPairLoss
from loopml.losses.synthetic import SyntheticLoss

__all__ = ["HPHNTripletLoss", "NPairLoss", "SyntheticLoss"]
