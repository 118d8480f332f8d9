"""Alignment starts at the reward model's belief, searches lists by score(Y) and raises z of what it found."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny_run
from ega_jax.decoding.lists import proposal_bids
from ega_jax.decoding.neighbours import moves
from ega_jax.decoding.slate import list_log_z, sampled
from ega_jax.models.ega_config import LIST
from ega_jax.stages import align, recipe
from ega_jax.systems import generation
from ega_jax.systems.creatives import creative_scores
from ega_jax.types import Request
from oracles_evaluation import legal, score_by_loop

LENGTH = 4
TEMPERATURE = 4.0  # so that a search has something to improve


@pytest.fixture(scope="module")
def setting():
  models, finals = tiny_run.models(), tiny_run.trained()[1]
  lists = recipe.list_config(tiny_run.config())
  generator = align.start_from_belief(finals["pretrain"]["generator"], lists.alpha, 3.0)
  params = {**finals["reward"], "generator": generator}
  params = jax.tree.map(jnp.asarray, generation.at_slot_price(params, 0.2))
  request = jax.tree.map(jnp.asarray, Request.from_batch(tiny_run.requests_of_test()))
  prepared = jax.jit(generation.prepare, static_argnums=0)(models, params, request)
  scaled = generation.in_market(lists, params["market"])
  return dict(models=models, params=params, request=request, prepared=prepared, lists=scaled)


def _improved(setting, rounds, moves=6, key=3):
  options = tiny_run.config().align.copy_and_resolve_references()
  options.update({"rounds": rounds, "moves": moves, "temperature": TEMPERATURE})
  run = jax.jit(lambda params, prepared, rng: align.improved_lists(
    setting["models"], params, prepared, setting["lists"], options, rng
  ))  # fmt: skip
  return [np.asarray(x) for x in run(setting["params"], setting["prepared"], jax.random.key(key))]


def _sampled(setting, key=3):
  """The lists that the search starts from."""
  models, params, prepared = (setting[name] for name in ("models", "params", "prepared"))
  decoder = generation.decoder(models, params, prepared.memory, LENGTH * prepared.table.codes.shape[-1])
  rng = jax.random.split(jax.random.key(key))[0]
  run = jax.jit(lambda: sampled(
    decoder, prepared.table, setting["request"].bid, prepared.prior, setting["lists"], rng, temperature=TEMPERATURE
  ))  # fmt: skip
  return np.asarray(run())[:, 0]


def _scores(setting, items):
  """score(Y) of lists items i[B, U, K], by loops over the reward model's own click probabilities."""
  params, request = setting["params"], setting["request"]
  best = _creatives(setting)
  shown = np.where(items >= 0, np.take_along_axis(best[:, None], np.maximum(items, 0), 2), -1)
  theta = jax.jit(generation.click_probabilities, static_argnums=0)(setting["models"], params, request, items, shown)
  rates = tuple(map(float, generation.objective(params["market"])))
  assert rates[1] > 0
  score = lambda b, u: score_by_loop(items[b, u], theta[b, u], request.bid[b], np.asarray(request.is_ad)[b], *rates)
  return np.array([[score(b, u) for u in range(items.shape[1])] for b in range(len(items))])


def _creatives(setting):
  """The creative of every candidate with the best log-odds of both clicks, by a loop."""
  own = np.asarray(setting["params"]["catalog"].poi_creatives)
  odds = np.asarray(setting["prepared"].alone["poi"] + setting["prepared"].alone["creative"])
  best = np.zeros(odds.shape[:2], int)
  for (b, i), poi in np.ndenumerate(np.asarray(setting["request"].candidates)):
    if poi >= 0:
      best[b, i] = max((odds[b, i, r], -r, creative) for r, creative in enumerate(own[poi]) if creative >= 0)[2]
  return best


def test_the_first_item_follows_belief_times_bid_net_of_the_slot(setting):
  prepared, lists = setting["prepared"], setting["lists"]
  table, bids = prepared.table, setting["request"].bid
  belief = np.max(np.asarray(jax.nn.log_sigmoid(prepared.alone["poi"])), axis=-1)
  seen = np.asarray(proposal_bids(bids, lists, table.slot_charge))
  assert (seen != np.asarray(proposal_bids(bids, lists)))[np.asarray(table.is_ad)].any()
  assert (np.asarray(proposal_bids(bids, lists)) != np.asarray(bids))[np.asarray(table.is_ad)].any()
  power = np.where(table.is_ad, (seen / float(lists.bid_scale)) ** lists.alpha, 0.0)
  weight = power + np.where(table.is_ad, lists.beta, float(lists.organic_beta))
  every = jnp.where(table.valid, jnp.arange(table.valid.shape[1]), -1)
  codes = generation.list_codes(table, every)[:, :, None]
  decode = jax.jit(lambda generator, memory, codes: generation.apply(
    setting["models"].generator, generator, "decode", memory, codes, LIST
  )[0])  # fmt: skip
  logits = decode(setting["params"]["generator"], prepared.memory, codes)
  assert np.abs(logits).max() == 0
  log_z = list_log_z(logits[:, :, 0], table, every, bids, prepared.prior.base, lists, reuse=True)
  expected = np.where(table.valid, np.exp(lists.alpha * belief) * weight, 0.0)
  expected /= expected.sum(-1, keepdims=True)
  np.testing.assert_allclose(np.where(table.valid, np.exp(log_z), 0.0), expected, rtol=2e-3, atol=1e-6)


def test_creatives_start_at_the_reward_models_choice(setting):
  np.testing.assert_array_equal(align.best_creatives(setting["params"], setting["prepared"]), _creatives(setting))


def test_improved_lists_are_legal_and_score_what_they_are_said_to(setting):
  before = _sampled(setting)
  is_ad, valid = np.asarray(setting["request"].is_ad), np.asarray(setting["request"].valid)
  start = _scores(setting, before[:, None])[:, 0]
  gains = []
  for rounds in (1, 3, 8):
    items, score, gain = _improved(setting, rounds)
    assert items.shape == (8, LENGTH) and (items >= 0).all()
    assert all(legal(*row) for row in zip(items, is_ad, valid, strict=True))
    np.testing.assert_allclose(score, _scores(setting, items[:, None])[:, 0], rtol=1e-4)
    np.testing.assert_allclose(gain, score - start, rtol=1e-3, atol=1e-4)
    assert (gain >= -1e-5).all()
    gains.append(gain)
  assert (gains[0] > 1e-4).any() and np.mean(gains[2]) > np.mean(gains[0])


def test_with_every_move_the_search_ends_where_no_move_improves(setting):
  every = align._every_move(LENGTH)
  assert every[0].tolist() == [0, 0, 0] and len({tuple(move) for move in every}) == len(every) == 1 + 6 + 4 + 40
  assert set(every[every[:, 0] == 2][:, 2]) == set(range(align.RANKS))
  np.testing.assert_array_equal(every, moves(LENGTH, len(every), LENGTH - 1))
  first, last = (_improved(setting, rounds, moves=len(every)) for rounds in (9, 10))
  assert (last[1] >= first[1] - 1e-5).all()
  np.testing.assert_array_equal(first[0], last[0])  # a list that no move improves


def test_list_scores_are_the_loop(setting):
  rng = np.random.default_rng(0)
  items = np.stack([np.stack([rng.permutation(14)[:LENGTH] for _ in range(3)]) for _ in range(8)]).astype(np.int32)
  items[:, 2, 2:] = -1
  params, objective = setting["params"], generation.objective(setting["params"]["market"])
  creatives = align.best_creatives(params, setting["prepared"])
  scores = jax.jit(align.list_scores, static_argnums=0)
  found = scores(setting["models"], params, setting["request"], items, creatives, objective)
  np.testing.assert_allclose(found, _scores(setting, items), rtol=1e-4, atol=1e-5)


def test_the_creative_distance_is_the_loop(setting):
  models, params, prepared = (setting[name] for name in ("models", "params", "prepared"))
  items = np.array(_sampled(setting))
  items[2, 3] = -1
  states = jax.random.normal(jax.random.key(1), (8, LENGTH, models.generator.config.width))
  found = jax.jit(align.creative_distance, static_argnums=0)(models, params, prepared, items, states, 2.0)
  odds = np.asarray(prepared.alone["poi"] + prepared.alone["creative"], np.float64)
  pois = np.maximum(np.take_along_axis(np.asarray(prepared.request.candidates), np.maximum(items, 0), 1), 0)
  own = np.asarray(params["catalog"].poi_creatives)[pois]
  belief = np.take_along_axis(odds, np.maximum(items, 0)[..., None], 1)
  scores = np.asarray(jax.jit(creative_scores, static_argnums=0)(models, params, states, own, np.float32(belief)))
  for b in range(8):
    distance = []
    for k in [k for k in range(LENGTH) if items[b, k] >= 0]:
      there = own[b, k] >= 0
      label = np.exp(2.0 * (belief[b, k][there] - belief[b, k][there].max()))
      log_q = scores[b, k][there] - np.logaddexp.reduce(scores[b, k][there])
      distance.append(-(label / label.sum() * log_q).sum())
    assert found[b] == pytest.approx(np.mean(distance), rel=1e-3)


def test_the_loss_falls_when_it_is_followed(setting):
  config = tiny_run.config()
  stage = align.align_stage(config, setting["models"], recipe.list_config(config))
  batch, rng = jax.tree.map(jnp.asarray, tiny_run.requests_of_test()), jax.random.key(3)

  @jax.jit
  def loss(generator):
    total, rows, metrics = stage.loss({**setting["params"], "generator": generator}, batch, rng)
    return total / rows, {name: value[0] / value[1] for name, value in metrics.items()}

  # z is raised on fixed lists: those that the first parameters found.
  fixed = _improved(setting, config.align.rounds, config.align.moves)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(align, "improved_lists", lambda *args: tuple(map(jnp.asarray, fixed)))
    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    generator, losses, distances = setting["params"]["generator"], [], []
    for _ in range(12):
      (value, metrics), gradient = step(generator)
      losses.append(float(value))
      distances.append(float(metrics["distance"]))
      generator = jax.tree.map(lambda x, g: x - 0.03 * g, generator, gradient)
  assert np.isfinite(losses).all() and losses[0] > 0 and losses[-1] < 0.9 * losses[0]
  assert distances[-1] < 0.9 * distances[0]
  learned = gradient["list_prior"]
  assert all(np.abs(leaf).max() > 0 for leaf in (learned["mix"]["kernel"], learned["ad_slot"]))


def test_a_search_without_neighbours_is_refused():
  config = tiny_run.config().copy_and_resolve_references()
  config.align.moves = 1
  with pytest.raises(ValueError, match="config.align.moves is 1"):
    align.align_stage(config, tiny_run.models(), recipe.list_config(config))


def test_it_ends_at_the_price_that_balances_its_own_lists(setting, monkeypatch):
  config, asked = tiny_run.config(), []
  monkeypatch.setattr(align, "balanced_price", lambda config, system, roughly: asked.append(system) or 1.25)
  stage = align.align_stage(config, setting["models"], recipe.list_config(config))
  found = stage.finish(setting["params"], {})
  assert float(found["market"]["slot_price"]) == 1.25 and asked[0].params is setting["params"]
  assert found["generator"] is setting["params"]["generator"]
