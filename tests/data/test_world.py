"""The truth: exact marginals, externalities, affinities, values, storage, and same seed = same bytes."""

import dataclasses
import itertools

import numpy as np
import pytest

from ega_jax.data import market_config, marketplace
from ega_jax.data import world as world_lib
from ega_jax.data.checkins import Checkins


@pytest.fixture(scope="module")
def market():
  return marketplace.generate(marketplace.TINY, 3)


def _marginals_by_enumeration(attraction, examination, fatigue):
  """Returns marginal click probabilities as a sum over all 2^K click patterns."""
  out = np.zeros(len(attraction))
  for pattern in itertools.product((0, 1), repeat=len(attraction)):
    chance, above = 1.0, 0
    for k, clicked in enumerate(pattern):
      p = attraction[k] * examination[k] * fatigue**above
      chance *= p if clicked else 1 - p
      above += clicked
    out += chance * np.array(pattern)
  return out


def test_marginals_equal_the_sum_over_click_patterns():
  rng = np.random.default_rng(0)
  attraction, examination = rng.random([3, 6]), 1 / (1 + 0.2 * np.arange(6))
  got = world_lib.marginal_clicks(attraction, examination, 0.6)
  for row, p in zip(got, attraction, strict=True):
    np.testing.assert_allclose(row, _marginals_by_enumeration(p, examination, 0.6), rtol=1e-12)


def test_logs_are_drawn_from_the_marginals(market):
  rows, repeats = np.arange(40), 4000
  items, creatives = (market.logs[name][:40] for name in ("shown_item", "shown_creative"))
  click = dataclasses.replace(market.world.click, bias=-1.0, fatigue=0.5)  # many clicks: what is above matters
  world = dataclasses.replace(market.world, click=click)
  exact = world.click_probabilities(rows, items, creatives)
  rng = np.random.default_rng(1)
  many = [np.tile(x, (repeats, 1)) for x in (items, creatives)]
  drawn = world.sample(np.tile(rows, repeats), *many, rng)
  for truth, sample in zip(exact, drawn, strict=True):
    mean = sample.reshape(repeats, *items.shape).mean(0)
    error = (mean - truth) / np.sqrt(truth * (1 - truth) / repeats)
    assert np.abs(error).max() < 5  # 160 comparisons
    assert 0.8 < error.std() < 1.2


def _externality_by_loops(world, pois):
  click, out = world.click, np.zeros(len(pois))
  for i, j in itertools.permutations(range(len(pois)), 2):
    if pois[i] < 0 or pois[j] < 0:
      continue
    a, b = world.poi_topic[pois[i]], world.poi_topic[pois[j]]
    similarity = -click.topic * max(a @ b / np.linalg.norm(a) / np.linalg.norm(b), 0)
    if world.poi_category[pois[i]] == world.poi_category[pois[j]]:
      similarity -= click.substitute
    similarity += click.complement * world.complement[world.poi_parent[pois[i]], world.poi_parent[pois[j]]]
    strength = click.above if j < i else click.below
    out[i] += strength * click.decay ** (abs(i - j) - 1) * similarity
  return out


def test_externality_equals_loops_over_pairs_and_ignores_empty_slots(market):
  pois = np.random.default_rng(2).integers(-1, market.behaviour.num_pois, [20, 5])
  expected = [_externality_by_loops(market.world, row) for row in pois]
  np.testing.assert_allclose(market.world.externality(pois), expected, atol=1e-5)


def test_same_category_crowding_hurts(market):
  world = market.world
  leaf = np.bincount(world.poi_category).argmax()
  crowd = np.flatnonzero(world.poi_category == leaf)[:3]
  assert (world.externality(crowd[None])[0] < -world.click.substitute * world.click.below).all()


def test_empty_slots_have_no_clicks_and_lists_batch(market):
  rows = np.arange(6)
  items, creatives = market.logs["shown_item"][:6].copy(), market.logs["shown_creative"][:6].copy()
  items[:, 2] = creatives[:, 2] = -1
  poi, creative, conversion = market.world.click_probabilities(rows, items, creatives)
  assert (poi[:, 2] == 0).all() and (creative[:, 2] == 0).all() and (conversion[:, 2] == 0).all()
  assert (poi[:, [0, 1, 3]] > 0).all() and (creative <= poi).all() and (conversion <= poi).all()
  lists = np.stack([items, items[:, ::-1]], 1)
  both = market.world.click_probabilities(rows, lists, np.stack([creatives, creatives[:, ::-1]], 1))[0]
  np.testing.assert_allclose(both[:, 0], poi, rtol=1e-12)
  assert np.abs(both[:, 1, ::-1] - poi).max() > 1e-3  # order matters


def test_blocks_do_not_change_probabilities(market, monkeypatch):
  rows = np.arange(50)
  shown = market.logs["shown_item"][:50], market.logs["shown_creative"][:50]
  whole = market.world.click_probabilities(rows, *shown)[0]
  monkeypatch.setattr(world_lib, "BLOCK", 12)
  np.testing.assert_allclose(market.world.click_probabilities(rows, *shown)[0], whole, rtol=1e-12)


@pytest.mark.parametrize("bad", [-2, 14])
def test_positions_outside_the_candidates_are_refused(market, bad):
  items, creatives = market.logs["shown_item"][:2].copy(), market.logs["shown_creative"][:2]
  items[1, 1] = bad
  with pytest.raises(ValueError, match="allowed: -1..13"):
    market.world.click_probabilities(np.arange(2), items, creatives)
  with pytest.raises(ValueError, match="allowed"):
    market.world.click_probabilities(np.arange(3), items, creatives)


def test_candidates_are_distinct_and_organic_come_first(market):
  config, requests = market.config, market.requests
  candidates = requests["candidates"]
  for row in candidates[::7]:
    present = row[row >= 0]
    assert len(np.unique(present)) == len(present)
  assert (candidates[:, : config.num_organic] >= 0).all()
  assert not requests["is_ad"][:, : config.num_organic].any()
  np.testing.assert_array_equal(requests["is_ad"][:, config.num_organic :], candidates[:, config.num_organic :] >= 0)


def test_values_are_lognormal_around_what_the_platform_knows():
  config = dataclasses.replace(marketplace.TINY, num_requests=4000)
  requests = marketplace.generate(config, 0).requests
  is_ad = requests["is_ad"]
  noise = (np.log(requests["bid"][is_ad]) - requests["value_mu"][is_ad]) / config.value_sigma
  tolerance = 5 / np.sqrt(noise.size)
  assert abs(noise.mean()) < tolerance and abs(noise.std() - 1) < tolerance
  assert abs(np.median(requests["bid"][is_ad]) - 1) < 0.05
  assert (requests["bid"][~is_ad] == 0).all() and (requests["value_mu"][~is_ad] == 0).all()


def test_bids_are_the_values(market):
  rows = np.arange(0, 1200, 11)
  np.testing.assert_array_equal(market.world.values(rows), market.requests["bid"][rows].astype(np.float64))


def test_requests_precede_their_visits_in_time_order(market):
  requests, behaviour = market.requests, market.behaviour
  assert (np.diff(requests["time"]) >= 0).all() and (requests["row"] == np.arange(len(requests["row"]))).all()
  for user in range(0, 64, 9):
    asked = requests["time"][requests["user"] == user]
    visits = behaviour.time[behaviour.user == user]
    assert len(asked) == len(visits)
    assert ((visits - asked >= 0) & (visits - asked <= marketplace.LEAD_MINUTES)).all()


def test_popularity_counts_visits_before_the_cut_only(market):
  before = market.behaviour.poi[market.behaviour.time < market.cut_time]
  expected = np.log1p(np.bincount(before, minlength=market.behaviour.num_pois))
  np.testing.assert_allclose(market.catalog.poi_popularity, expected, rtol=1e-6)
  assert 0.5 < len(before) / len(market.behaviour.poi) < 0.9


def _bytes(market):
  parts = [market.behaviour.poi, market.behaviour.time, *market.requests.values(), *market.logs.values()]
  parts += [getattr(market.catalog, f.name) for f in dataclasses.fields(market.catalog)]
  return b"".join(np.ascontiguousarray(part).tobytes() for part in parts)


def test_same_seed_same_bytes_and_another_seed_another_world(market):
  assert _bytes(market) == _bytes(marketplace.generate(marketplace.TINY, 3))
  assert _bytes(market) != _bytes(marketplace.generate(marketplace.TINY, 4))


def test_streams_are_independent_of_one_another(market):
  """Another value noise changes bids, and no visit, place, candidate or embedding."""
  other = marketplace.generate(dataclasses.replace(marketplace.TINY, value_sigma=0.9), 3)
  for name in ("user", "time", "place", "candidates"):
    np.testing.assert_array_equal(other.requests[name], market.requests[name])
  np.testing.assert_array_equal(other.catalog.poi_embedding, market.catalog.poi_embedding)
  assert (other.requests["bid"] != market.requests["bid"]).any()


def test_world_survives_storage(market, tmp_path):
  market.world.save(tmp_path / "world.npz")
  loaded = world_lib.World.load(tmp_path / "world.npz")
  rows, shown = np.arange(30), (market.logs["shown_item"][:30], market.logs["shown_creative"][:30])
  np.testing.assert_array_equal(
    market.world.click_probabilities(rows, *shown), loaded.click_probabilities(rows, *shown)
  )
  np.savez(tmp_path / "foreign.npz", x=np.zeros(3))
  with pytest.raises(ValueError, match=r"foreign.npz.*missing.*candidates"):
    world_lib.World.load(tmp_path / "foreign.npz")
  (tmp_path / "foreign.npz").write_bytes((tmp_path / "world.npz").read_bytes()[:-40])
  with pytest.raises(ValueError, match="foreign.npz: not an .npz file, or truncated"):
    world_lib.World.load(tmp_path / "foreign.npz")


def _checkins(num_events=900, num_users=12, num_pois=80):
  rng = np.random.default_rng(5)
  return Checkins(
    user=rng.integers(0, num_users, num_events).astype(np.int32),
    poi=(num_pois * rng.random(num_events) ** 2).astype(np.int32),
    time=np.sort(market_config.START_MINUTE + rng.integers(0, 60 * 24 * 90, num_events)),
    user_ids=np.arange(num_users).astype(str),
    poi_ids=np.arange(num_pois) + 100,
    place=rng.normal(0, 3, [num_pois, 2]).astype(np.float32),
    category=rng.integers(0, 9, num_pois).astype(np.int32),
    category_names=tuple("abcdefghi"),
    embedding=rng.normal(size=[num_pois, 12]).astype(np.float32),
  )


def test_over_checkins_keeps_the_real_visits_and_hides_the_future():
  """Visits after a time change neither the requests before it nor the observed embeddings."""
  checkins, config = _checkins(), dataclasses.replace(marketplace.TINY, radius_km=4.0)
  cut = int(checkins.time[600])
  market = marketplace.over_checkins(checkins, config, 0, cut)
  np.testing.assert_array_equal(market.behaviour.poi, checkins.poi)
  assert len(market.requests["row"]) == 900 and market.catalog.poi_parent.max() < config.num_parents
  assert (market.requests["is_ad"].sum(1) < config.num_ads).any()  # the radius holds fewer
  later = checkins.poi.copy()
  later[600:] = (later[600:] * 7 + 3) % 80
  other = marketplace.over_checkins(dataclasses.replace(checkins, poi=later), config, 0, cut)
  before = market.requests["time"] < cut
  for name in ("place", "hour", "candidates", "is_ad", "bid", "value_mu"):
    np.testing.assert_array_equal(other.requests[name][before], market.requests[name][before])
  np.testing.assert_array_equal(other.logs["shown_item"][before], market.logs["shown_item"][before])
  for field in ("poi_embedding", "poi_popularity", "creative_embedding"):
    np.testing.assert_array_equal(getattr(other.catalog, field), getattr(market.catalog, field))
  assert (other.world.user_topic != market.world.user_topic).any()  # the truth sees the whole record


def test_a_cut_before_everything_is_refused():
  with pytest.raises(ValueError, match="cut_time = 0, allowed: after the first request"):
    marketplace.over_checkins(_checkins(), marketplace.TINY, 0, 0)


def test_max_requests_takes_a_seeded_sample():
  config = dataclasses.replace(marketplace.TINY, max_requests=200)
  market = marketplace.generate(config, 0)
  assert len(market.requests["row"]) == 200 and len(market.behaviour.poi) == config.num_requests


def test_configs_refuse_what_cannot_be():
  with pytest.raises(ValueError, match="num_organic = 3, allowed: >= list_length = 4"):
    dataclasses.replace(marketplace.TINY, num_organic=3)
  with pytest.raises(ValueError, match=r"ad_share = 1.5"):
    dataclasses.replace(marketplace.TINY, ad_share=1.5)
  with pytest.raises(ValueError, match="never advertise"):
    marketplace.generate(dataclasses.replace(marketplace.TINY, num_organic=150), 0)


def test_hour_of_week_starts_on_monday():
  assert market_config.hour_of_week(market_config.START_MINUTE) == 0
  assert market_config.hour_of_week(market_config.START_MINUTE + 6 * 24 * 60 + 23 * 60 + 59) == 167


def test_pair_noise_is_standard_normal_and_repeatable():
  a, b = np.divmod(np.arange(40_000), 200)
  noise = world_lib.pair_noise(7, a, b)
  assert abs(noise.mean()) < 0.03 and abs(noise.std() - 1) < 0.03
  np.testing.assert_array_equal(noise, world_lib.pair_noise(7, a, b))
  assert abs(np.corrcoef(noise, world_lib.pair_noise(8, a, b))[0, 1]) < 0.03
  assert abs(np.corrcoef(noise[:-1], noise[1:])[0, 1]) < 0.03
