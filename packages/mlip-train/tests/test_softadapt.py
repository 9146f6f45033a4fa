"""Loss weights by SoftAdapt."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import pytest

from mlip_train.config import LossConfig
from mlip_train.training.softadapt import SoftAdapt

TERMS = [[4.0, 2.0, 0.0], [3.0, 1.9, 0.0], [2.9, 1.0, 0.0], [2.8, 0.95, 0.0], [2.0, 0.9, 0.0]]


def test_shares_follow_the_formula_and_keep_the_sum() -> None:
    adapt = SoftAdapt(LossConfig(softadapt=1.5, softadapt_epochs=2))
    weights = [1.0, 10.0, 0.0]
    for terms in TERMS[:2]:
        adapt.end_epoch(terms)
    assert adapt.apply(weights) == weights  # one change is not yet two
    adapt.end_epoch(TERMS[2])

    shares = []
    for before, now in pairwise(TERMS[:3]):
        changes = [b - a for a, b in zip(before, now, strict=True)]
        powers = [math.exp(1.5 * c / math.hypot(*changes)) for c in changes]
        shares.append([p / sum(powers) for p in powers])
    raw = [w * sum(s[i] for s in shares) for i, w in enumerate(weights)]
    assert adapt.apply(weights) == pytest.approx([11.0 * r / sum(raw) for r in raw], rel=1e-12)
    assert adapt.apply(weights)[2] == 0.0


def test_the_term_that_falls_least_gains() -> None:
    adapt = SoftAdapt(LossConfig(softadapt=1.0, softadapt_epochs=1))
    adapt.end_epoch([4.0, 2.0, 0.0])
    adapt.end_epoch([3.0, 2.0, 0.0])
    energy, forces, _ = adapt.apply([1.0, 1.0, 0.0])
    assert forces > 1.0 > energy


def test_a_restart_in_the_middle_changes_nothing() -> None:
    config = LossConfig(softadapt=1.1, softadapt_epochs=3)
    whole, first = SoftAdapt(config), SoftAdapt(config)
    for i, terms in enumerate(TERMS):
        whole.end_epoch(terms)
        if i == 2:
            state, first = json.loads(json.dumps(first.state())), SoftAdapt(config)
            first.load(state)
        first.end_epoch(terms)
    assert whole.factors == first.factors != [1.0, 1.0, 1.0]


def test_without_beta_weights_stay() -> None:
    adapt = SoftAdapt(LossConfig())
    for terms in TERMS:
        adapt.end_epoch(terms)
    assert adapt.apply([1.0, 2.0, 3.0]) == [1.0, 2.0, 3.0]
