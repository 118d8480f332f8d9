"""Each loss equals its formula, and gradients flow only where they should."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ega_jax.losses import generation, masking, policy, reward


def test_next_token_loss_is_the_mean_negative_log_probability():
  logits = np.log(np.array([[[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]]], np.float32))
  total, weight, metrics = generation.next_token_loss(logits, np.array([[[0, 2]]]))
  np.testing.assert_allclose(total, -np.log(0.5) - np.log(0.1), rtol=1e-6)
  assert weight == 2
  np.testing.assert_allclose(masking.average(metrics["accuracy"]), 0.5)


def test_legal_codes_share_the_probability():
  logits = np.log(np.array([[0.5, 0.25, 0.25]], np.float32))
  legal = np.array([[False, True, True]])
  total, weight, _ = generation.code_loss(logits, np.array([1]), legal=legal)
  np.testing.assert_allclose(total, np.log(2), rtol=1e-6)
  total, weight, _ = generation.code_loss(logits, np.array([0]), legal=legal)
  assert total == 0 and weight == 0
  gradient = jax.grad(lambda x: generation.code_loss(x, np.array([0]), legal=legal & False)[0])(jnp.asarray(logits))
  np.testing.assert_array_equal(gradient, 0)


def test_multi_token_loss_sums_the_codes_that_are_there():
  logits = np.random.default_rng(0).normal(size=(2, 3, 2, 4)).astype(np.float32)
  codes = np.array([[[1, 3], [-1, 0], [2, 2]], [[-1, -1], [-1, -1], [0, -1]]])
  total, weight, _ = generation.multi_token_loss(logits, codes)
  want = 0.0
  for place in np.argwhere(codes >= 0):
    row = logits[tuple(place)].astype(np.float64)
    want -= row[codes[tuple(place)]] - np.log(np.exp(row).sum())
  np.testing.assert_allclose(total, want, rtol=1e-5)
  assert weight == 6


def test_sequence_loss_drops_impossible_items():
  total, weight, _ = generation.sequence_loss(jnp.array([-1.0, -jnp.inf]), where=np.array([True, False]))
  assert total == 1 and weight == 1


def test_list_click_loss_adds_the_heads_and_reports_predicted_over_observed():
  logits = {"poi": np.array([[0.0, 2.0]], np.float32), "creative": np.array([[-1.0, 0.0]], np.float32)}
  labels = {"poi": np.array([[1, 0]]), "creative": np.array([[0, 0]])}
  total, weight, metrics = reward.list_click_loss(logits, labels, weights={"creative": 0.5})
  log_loss = lambda x, y: -(y * np.log(1 / (1 + np.exp(-x))) + (1 - y) * np.log(1 - 1 / (1 + np.exp(-x))))
  poi, creative = (log_loss(logits[n], labels[n]).sum() for n in ("poi", "creative"))
  np.testing.assert_allclose(total, poi + 0.5 * creative, rtol=1e-5)
  assert weight == 2
  expected = (1 / (1 + np.exp(-logits["poi"]))).sum()
  np.testing.assert_allclose(masking.average(metrics["poi_predicted_over_observed"]), expected, rtol=1e-5)
  with pytest.raises(ValueError, match="'creative'"):
    reward.list_click_loss(logits, {"poi": labels["poi"]})


def test_policy_gradient_is_reinforce_and_the_reward_is_frozen():
  logits, theta = jnp.array([[0.3, -0.2, 0.1]]), jnp.array([[0.5, 0.2]])

  def loss(logits, theta):
    log_z = jax.nn.log_softmax(logits)[:, :2]
    r = policy.marginal_contribution(theta.sum(-1), theta)
    return policy.policy_gradient_loss(log_z, r)[0]

  by_logits, by_theta = jax.grad(loss, argnums=(0, 1))(logits, theta)
  z = np.asarray(jax.nn.softmax(logits))[0]
  contribution = np.array([0.2, 0.5])
  want = -sum(r * (np.eye(3)[i] - z) for i, r in enumerate(contribution))
  np.testing.assert_allclose(by_logits[0], want, rtol=1e-5)
  np.testing.assert_array_equal(by_theta, 0)


def test_policy_weight_counts_requests():
  log_z, r = -np.ones((3, 2), np.float32), np.ones((3, 2), np.float32)
  where = np.array([[True, True], [True, False], [False, False]])
  total, weight, _ = policy.policy_gradient_loss(log_z, r, where=where)
  assert total == 3 and weight == 2


def test_sampled_policy_gradient_raises_what_earns_more():
  """Three arms, one of them best: ascent on sampled marginal contributions finds it."""
  value = jnp.array([0.1, 1.0, 0.3])

  def step(logits, key):
    arms = jax.random.categorical(key, logits, shape=(64,))

    def loss(logits):
      log_z = jax.nn.log_softmax(logits)[arms][:, None]
      return policy.policy_gradient_loss(log_z, value[arms][:, None] - 0.4)[0] / 64

    return logits - jax.grad(loss)(logits), None

  logits, _ = jax.lax.scan(step, jnp.zeros(3), jax.random.split(jax.random.key(0), 60))
  assert jax.nn.softmax(logits)[1] > 0.9


def test_a_group_of_lists_gives_the_gradient_of_the_expected_score():
  """All pairs of lists of two out of three arms, by their probability; the second choice depends on the first."""
  score = jnp.array([[1.0, 0.2, 0.7], [0.4, 0.9, 0.1], [0.0, 0.3, 1.5]])
  logits = 0.5 * jax.random.normal(jax.random.key(0), (4, 3))  # of the first choice, and of the second after each
  pairs = jnp.array(list(itertools.product(range(3), repeat=4))).reshape(-1, 2, 2)

  def log_z(logits, lists):
    first, second = lists[..., 0], lists[..., 1]
    return jnp.stack([jax.nn.log_softmax(logits[0])[first], jax.nn.log_softmax(logits[1:])[first, second]], -1)

  def loss(logits):
    found = score[pairs[..., 0], pairs[..., 1]]
    advantage = jnp.broadcast_to(policy.leave_one_out(found)[..., None], pairs.shape)
    probability = jax.lax.stop_gradient(jnp.exp(log_z(logits, pairs).sum((1, 2))))
    each = jax.vmap(lambda z, r: policy.policy_gradient_loss(z[None], r[None])[0])
    flat = lambda a: a.reshape(len(a), -1)
    return jnp.sum(probability * each(flat(log_z(logits, pairs)), flat(advantage) / 2))

  every = jnp.array(list(itertools.product(range(3), repeat=2)))
  expected = lambda logits: jnp.sum(jnp.exp(log_z(logits, every).sum(-1)) * score[every[:, 0], every[:, 1]])
  np.testing.assert_allclose(jax.grad(loss)(logits), -jax.grad(expected)(logits), atol=1e-6)
  with pytest.raises(ValueError, match="1 list a request; allowed: 2 or more"):
    policy.leave_one_out(score[:, :1])


def test_mask_of_another_shape_is_refused():
  with pytest.raises(ValueError, match=r"\(3,\).*\(2, 4\)"):
    masking.masked_sum(jnp.ones((2, 4)), np.ones(3, bool))


def test_masked_sum_hides_nan_from_value_and_gradient():
  values, where = jnp.array([1.0, jnp.nan, 2.0]), np.array([True, False, True])
  total, gradient = jax.value_and_grad(lambda v: masking.masked_sum(jnp.square(v) + 0, where)[0])(values)
  assert total == 5 and masking.masked_sum(values, where)[1] == 2
  np.testing.assert_array_equal(gradient[np.array([0, 2])], [2, 4])
