"""What the prior makes of counts, by a loop over the history, and requests whose time is hidden."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import oracles_models as oracle
from ega_jax.models import ega_config, encoder, item_prior
from ega_jax.models.ega_config import LIST, NEXT_VISITS
from ega_jax.models.features import NAMES, moment
from ega_jax.models.visit_counts import visit_counts


@pytest.fixture(scope="module")
def setting():
  rng = np.random.default_rng(0)
  catalog = oracle.catalog(rng)
  rows = oracle.request(rng, catalog)
  catalog = jax.tree.map(jnp.asarray, catalog)
  module = item_prior.ItemPrior(ega_config.tiny(num_pois=30, num_users=7))
  summary = jnp.zeros((rows.user.shape[0], 32))
  apply = jax.jit(lambda params, task: module.apply(
    {"params": params}, summary, rows, catalog, rows.candidates, rows.is_ad, task
  ), static_argnums=1)  # fmt: skip
  params = jax.tree.map(
    jnp.asarray, oracle.random_params(rng, jax.eval_shape(
      lambda: module.init(jax.random.key(0), summary, rows, catalog, rows.candidates, rows.is_ad, 0)
    )["params"])
  )  # fmt: skip
  params["heads"] = jax.tree.map(jnp.zeros_like, params["heads"])
  return rows, catalog, params, apply


@pytest.mark.parametrize("task", [NEXT_VISITS, LIST])
def test_counts_enter_by_their_logarithm(setting, task):
  rows, catalog, params, apply = setting
  counts = visit_counts(rows, catalog, rows.candidates, params["visit_weights"])
  expected = np.where(rows.candidates >= 0, params["counts"][task] * np.log(counts), 0.0)
  np.testing.assert_allclose(apply(params, task), expected, rtol=1e-4, atol=1e-4)


def test_no_gradient_reaches_the_weights_of_visits(setting):
  params, apply = setting[2:]
  gradient = jax.grad(lambda params: apply(params, NEXT_VISITS).sum())(params)
  assert not np.any(gradient["visit_weights"]) and np.any(gradient["counts"])


def test_a_fresh_prior_counts_for_next_visits_and_not_for_lists(setting):
  rows, catalog, _, _ = setting
  module = item_prior.ItemPrior(ega_config.tiny(num_pois=30, num_users=7))
  summary = jnp.zeros((rows.user.shape[0], 32))
  init = jax.jit(lambda key: module.init(key, summary, rows, catalog, rows.candidates, rows.is_ad, 0)["params"])
  fresh = init(jax.random.key(0))
  np.testing.assert_array_equal(jax.tree.leaves(fresh["counts"])[0], [1, 0])


def test_a_request_without_its_time_is_known_as_at_its_last_event(setting):
  rows = setting[0]
  hidden = np.arange(len(rows.user)) % 2 == 0
  found = encoder.hide_time(rows, jnp.asarray(hidden))
  np.testing.assert_array_equal(found.hour, np.where(hidden, -1, rows.hour))
  present = rows.history_poi >= 0
  for b in range(len(hidden)):
    since = rows.history_age[b][present[b]].min(initial=np.inf) - encoder.UNKNOWN_AGE if hidden[b] else 0.0
    expected = np.where(present[b] | ~hidden[b], rows.history_age[b] - since, 0.0)
    np.testing.assert_allclose(found.history_age[b], expected, rtol=1e-6)
  for field in dataclasses.fields(rows):
    if field.name not in ("hour", "history_age"):
      np.testing.assert_array_equal(getattr(found, field.name), getattr(rows, field.name))


def test_a_hidden_time_counts_from_the_last_event_that_is_left(setting):
  rows = setting[0]
  gone = dataclasses.replace(rows, history_poi=rows.history_poi.copy())
  gone.history_poi[:, -2:] = -1  # as hide_clicks leaves it
  found = np.asarray(encoder.hide_time(gone, jnp.ones(len(rows.user), bool)).history_age)
  present = gone.history_poi >= 0
  some = present.any(1)
  assert some.sum() > 2 and not found[~some].any()
  np.testing.assert_allclose(np.where(present, found, np.inf).min(1)[some], 8.0, rtol=1e-6)


def test_the_prior_reads_the_moment(setting):
  rows, _, params, apply = setting
  heads = {name: jnp.ones_like(leaf) for name, leaf in params["heads"].items()}
  kernel = params["hidden"]["kernel"]
  of = lambda kernel: apply(params | {"heads": heads, "hidden": params["hidden"] | {"kernel": kernel}}, NEXT_VISITS)
  gradient = np.asarray(jax.grad(lambda kernel: of(kernel).sum())(kernel))
  now = np.asarray(moment(rows))
  assert kernel.shape[0] == len(NAMES) + 3 + now.shape[1]
  assert (np.abs(gradient[-now.shape[1] :]).sum(1) > 0).all() and (np.abs(now).sum(0) > 0).all()
