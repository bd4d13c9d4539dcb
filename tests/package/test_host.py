"""The border to pytorch-metric-learning: what it differs in between its majors, and what we ask."""

import copy
import pickle
from typing import Any

import pytest
import torch
from pytorch_metric_learning import distances, reducers, regularizers
from torch import Tensor

from loopml import HPHNTripletLoss, LoOpMiner, NPairLoss
from loopml.host import DISTANCES, _measured, miner_arguments, properties_of

X = torch.randn(12, 5, generator=torch.Generator(torch.get_default_device()).manual_seed(0))
Y = torch.arange(12) % 3
REFS = torch.randn(9, 5, generator=torch.Generator(torch.get_default_device()).manual_seed(1))
REF_LABELS = torch.arange(9) % 3


@pytest.mark.parametrize("normalizes", [True, False])
@pytest.mark.parametrize("power", [1, 2, 0.5])
@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize("kind", DISTANCES)
def test_properties_are_seen_in_values(kind: Any, p: float, power: float, normalizes: bool) -> None:
    """What a distance hides is measured, and is what its attributes say where it has them."""
    options = {} if kind is distances.CosineSimilarity else {"normalize_embeddings": normalizes}
    if kind is distances.LpDistance:
        options["p"] = p
    distance = kind(power=power, **options)
    found = properties_of(distance)
    assert found.power == power
    assert found.normalizes is (normalizes or kind is distances.CosineSimilarity)
    assert found.is_similarity is (kind is not distances.LpDistance)
    assert _measured(distance, found.is_similarity) == found


def triplets(found: tuple[Tensor, ...]) -> set[tuple[int, ...]]:
    return set(zip(*(index.tolist() for index in found), strict=True))


def test_a_miner_takes_the_arguments_of_both_majors() -> None:
    """Release 2: references third and fourth. Release 3: candidates third, then references."""
    miner = LoOpMiner()
    alone, wanted = (
        triplets(miner(X, Y)),
        triplets(miner(X, Y, ref_emb=REFS, ref_labels=REF_LABELS)),
    )
    assert triplets(miner(X, Y, None)) == triplets(miner(X, Y, None, None)) == alone
    assert triplets(miner(X, Y, None, None, None)) == triplets(miner.mine(X, Y)) == alone
    assert triplets(miner.mine(X, Y, None, None)) == triplets(miner.mine(X, Y, X, Y)) == alone
    assert triplets(miner(X, Y, REFS, REF_LABELS)) == wanted != alone
    assert triplets(miner(X, Y, REFS, ref_labels=REF_LABELS)) == wanted
    assert triplets(miner(X, Y, None, REFS, REF_LABELS)) == wanted
    assert triplets(miner(X, Y, indices_tuple=None, ref_emb=REFS, ref_labels=REF_LABELS)) == wanted
    assert triplets(miner.mine(X, Y, REFS, REF_LABELS)) == wanted


@pytest.mark.parametrize("references", [(), (REFS, REF_LABELS)], ids=["alone", "references"])
def test_candidates_are_what_a_miner_selects_from(references: tuple[Tensor, ...]) -> None:
    """All pairs change nothing; without some pairs the triplets that need one are left out."""
    miner = LoOpMiner()
    mined = miner(X, Y, None, *references)
    labels = references[1] if references else Y
    same = Y.unsqueeze(1) == labels
    positives, negatives = same.nonzero(as_tuple=True), (~same).nonzero(as_tuple=True)
    everything = (*positives, *negatives)
    assert triplets(miner(X, Y, everything, *references)) == triplets(mined)
    assert triplets(miner(X, Y, list(mined), *references)) == triplets(mined)
    for cut in (
        (positives[0][1:], positives[1][1:], *negatives),
        (*positives, negatives[0][9:], negatives[1][9:]),
    ):
        pairs = {"positive": triplets(cut[:2]), "negative": triplets(cut[2:])}
        kept = {
            (a, p, n)
            for a, p, n in triplets(mined)
            if (a, p) in pairs["positive"] and (a, n) in pairs["negative"]
        }
        assert triplets(miner(X, Y, cut, *references)) == kept
    some = tuple(index[::2] for index in mined)
    kept = {
        (a, p, n)
        for a, p, n in triplets(mined)
        if (a, p) in triplets(some[:2]) and (a, n) in triplets(some[::2])
    }
    assert triplets(miner(X, Y, some, *references)) == kept < triplets(mined)
    nothing = tuple(index[:0] for index in mined)
    assert triplets(miner(X, Y, nothing, *references)) == set()
    assert miner.num_triplets == 0


def test_wrong_arguments_of_a_miner() -> None:
    with pytest.raises(
        TypeError, match=r"ref_emb was given twice.*call miner\(embeddings, labels, ref_emb=ref_emb"
    ):
        miner_arguments(REFS, REFS, REF_LABELS)
    for wrong in ((Y, Y), (Y, Y, None), [1, 2, 3]):
        with pytest.raises(ValueError, match="indices_tuple must have three index tensors"):
            LoOpMiner()(X, Y, wrong)
    with pytest.raises(TypeError, match=r"ref_emb must be a torch.Tensor, got ndarray"):
        LoOpMiner()(X, Y, REFS.numpy(force=True), REF_LABELS)
    with pytest.raises(ValueError, match="use num_negatives"):
        LoOpMiner(tuples_per_anchor=3)


def test_a_penalty_is_never_dropped() -> None:
    """Also where the reducer shows no sign of it, as in release 3."""
    plain = NPairLoss()
    loss = NPairLoss(l2_reg=0.5)
    assert plain._is_plain_mean()
    assert loss._has_penalty
    assert not loss._is_plain_mean()
    loss.reducer = reducers.MeanReducer()
    assert not loss._is_plain_mean()
    for copied in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert not copied._is_plain_mean()
    torch.testing.assert_close(
        NPairLoss(l2_reg=0.5)(X, Y), plain(X, Y) + 0.5 * X.square().sum(1).mean()
    )
    regularised = HPHNTripletLoss(
        embedding_regularizer=regularizers.LpRegularizer(), embedding_reg_weight=2
    )
    torch.testing.assert_close(
        regularised(X, Y), HPHNTripletLoss()(X, Y) + 2 * X.norm(dim=1).mean()
    )


def test_statistics_are_attributes() -> None:
    """0 before the first batch and after an idle one; absent where nobody asked for them."""
    quiet, loss, miner = (
        HPHNTripletLoss(),
        HPHNTripletLoss(collect_stats=True),
        LoOpMiner(collect_stats=True),
    )
    assert not quiet.collect_stats
    assert not hasattr(quiet, "num_tuples")
    for module in (loss, miner):
        assert module.collect_stats
        assert module.num_tuples == module.interior_share == 0
        module(X, Y)
        assert module.num_tuples > 0
        assert module.hardest_real_negative >= module.hardest_synthetic_negative > 0
        module(X, torch.arange(12))
        assert module.num_tuples == module.hardest_real_negative == 0


def test_the_default_distance_has_two_names() -> None:
    for module, kind in (
        (HPHNTripletLoss(), distances.LpDistance),
        (NPairLoss(), distances.DotProductSimilarity),
    ):
        assert type(module.default_distance()) is type(module.get_default_distance()) is kind
        assert type(module.distance) is kind
    assert not properties_of(NPairLoss().distance).normalizes


@pytest.mark.parametrize("place", ["front", "inside"])
def test_own_copies_in_references_of_another_dtype(place: str) -> None:
    """A queue of float32 that holds the rows of a bfloat16 batch makes no row its own positive."""
    x = X.bfloat16()
    parts, labels = [x.float(), REFS], [Y, REF_LABELS]
    if place == "inside":
        parts, labels = parts[::-1], labels[::-1]
    refs, ref_labels = torch.cat(parts), torch.cat(labels)
    for loss in (HPHNTripletLoss(), HPHNTripletLoss(synthesizer=LoOpMiner()), NPairLoss()):
        assert torch.equal(
            loss(x, Y, ref_emb=refs, ref_labels=ref_labels),
            loss(x.float(), Y, ref_emb=refs, ref_labels=ref_labels),
        )
    anchor, positive, _ = LoOpMiner()(x, Y, None, refs, ref_labels)
    assert not bool((x[anchor].float() == refs[positive]).all(1).any())


def test_a_tuple_is_not_used_by_our_losses() -> None:
    """They mine for themselves; a row's own copy is found by its numbers, wherever it lies."""
    refs, labels = torch.cat([REFS, X]), torch.cat([REF_LABELS, Y])
    given = tuple(torch.zeros(1, dtype=torch.int64) for _ in range(3))
    for loss in (HPHNTripletLoss(), HPHNTripletLoss(synthesizer=LoOpMiner())):
        assert torch.equal(
            loss(X, Y, given, ref_emb=refs, ref_labels=labels),
            loss(X, Y, ref_emb=refs, ref_labels=labels),
        )
