"""Markets: checks of the JSON format, enumeration, click probabilities against loops over the definition."""

import json
import math

import numpy as np
import pytest

import oracles
from ega_jax.auction import market as market_lib

SPEC = {
  "name": "toy", "slots": 2, "quality": [0.6, 0.5, 0.4, 0.3], "position": [1.0, 0.6],
  "similarity": [[9, 1, 0.5, -0.3], [1, 9, 0.3, 0], [0.5, 0.2, 9, 1], [-0.3, 0, 1, 9]],
  "externality": {"above": -0.6, "below": -0.3, "decay": 0.5},
  "values": {"distribution": "uniform", "low": 0.0, "high": 1.0},
}


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_click_probabilities_equal_loops(slots):
  spec = {**SPEC, "slots": slots, "position": [1.0, 0.6, 0.36][:slots]}
  market = market_lib.from_dict(spec)
  lists = market_lib.ordered_lists(4, slots)
  expected = oracles.lists(4, slots)
  assert [tuple(ad for ad in row if ad >= 0) for row in lists.tolist()] == expected
  want = [oracles.theta(spec, shown) for shown in expected]
  np.testing.assert_allclose(market_lib.click_probabilities(market, lists), want, rtol=1e-14)


def test_number_of_lists():
  for ads, slots in [(6, 3), (10, 4), (2, 5)]:
    want = sum(math.perm(ads, k) for k in range(min(ads, slots) + 1))
    assert market_lib.ordered_lists(ads, slots).shape == (want, slots)


def test_more_slots_than_ads_and_no_similarity():
  spec = {k: v for k, v in SPEC.items() if k not in ("similarity", "externality")}
  market = market_lib.from_dict({**spec, "quality": [0.5, 0.25]})
  theta = market_lib.click_probabilities(market, market_lib.ordered_lists(2, 2))
  np.testing.assert_allclose(theta[-1], [0.5 * 0.6, 0.25], rtol=1e-15)


@pytest.mark.parametrize(
  "change, field",
  [
    ({"bids": [[0.1, float("nan"), 0.2, 0.3]]}, "bids"),
    ({"bids": [[0.1, -0.5, 0.2, 0.3]]}, "bids"),
    ({"bids": [[0.1, float("inf"), 0.2, 0.3]]}, "bids"),
    ({"bids": [[0.1, 0.2, 0.3]]}, "bids"),
    ({"bids": [[0.1, "x", 0.2, 0.3]]}, "bids"),
    ({"bids": [0.1, 0.2, 0.2, 0.3]}, "bids"),
    ({"quality": [0.6, -0.1, 0.4, 0.3]}, "quality"),
    ({"quality": [0.6, 1.1, 0.4, 0.3]}, "quality"),
    ({"quality": []}, "quality"),
    ({"position": [1.0]}, "position"),
    ({"slots": 0}, "slots"),
    ({"slots": 1.5}, "slots"),
    ({"slots": True}, "slots"),
    ({"similarity": [[0, 1], [1, 0]]}, "similarity"),
    ({"externality": {"above": -0.6, "decay": 0.5}}, "externality"),
    ({"externality": {"above": float("nan"), "below": 0.0, "decay": 0.5}}, "externality.above"),
    ({"values": {"distribution": "pareto", "low": 0.0}}, "values"),
    ({"values": {"distribution": ["uniform"], "low": 0.0}}, "values"),
    ({"values": {"distribution": "uniform", "low": 1.0, "high": 1.0}}, "low"),
    ({"values": {"distribution": "uniform", "low": 0.0}}, "high"),
    ({"values": {"distribution": "lognormal", "mu": 0.0, "sigma": -1.0}}, "sigma"),
    ({"values": {"distribution": "exponential", "mean": "3"}}, "mean"),
    ({"values": [{"distribution": "exponential", "mean": 1.0}]}, "values"),
    ({"reserve": 0.5}, "reserve"),
    ({"quality": [0.6, 10**400, 0.4, 0.3]}, "quality"),
    ({"externality": {"above": 10**400, "below": 0.0, "decay": 0.5}}, "externality.above"),
    ({"values": {"distribution": "exponential", "mean": 10**400}}, "mean"),
    ({"slots": 1500, "quality": [0.1] * 2000, "position": [1.0] * 1500, "similarity": None}, "more than 10.12 here"),
  ],
)
def test_bad_markets_name_the_field(change, field, tmp_path):
  path = tmp_path / "market.json"
  path.write_text(json.dumps({**SPEC, **change}))
  with pytest.raises(ValueError, match=field) as error:
    market_lib.read(path)
  assert str(path) in str(error.value)


def test_missing_field_too_many_lists_and_truncated_file(tmp_path):
  with pytest.raises(ValueError, match="position"):
    market_lib.from_dict({k: v for k, v in SPEC.items() if k != "position"})
  huge = {"slots": 10, "quality": [0.5] * 12, "position": [1.0] * 10, "values": SPEC["values"]}
  with pytest.raises(ValueError, match="ordered lists"):
    market_lib.from_dict(huge)
  path = tmp_path / "cut.json"
  path.write_text(json.dumps(SPEC)[:40])
  with pytest.raises(ValueError, match="cut.json"):
    market_lib.read(path)
