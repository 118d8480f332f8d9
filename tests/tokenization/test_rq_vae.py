"""RQ-VAE: quantisation against numpy, straight-through gradients, data-dependent start, the stage's loss contract."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ega_jax.tokenization import metrics, rq_vae

CONFIG = rq_vae.RQVAEConfig(input_size=12, hidden=(32,), latent=6, levels=2, codebook_size=8)
MODULE = rq_vae.RQVAE(CONFIG)


def _embeddings(count=160):
  draw = np.random.default_rng(0)
  centres = draw.normal(size=(20, 12))
  return (5 + centres[draw.integers(0, 20, count)] + 0.2 * draw.normal(size=(count, 12))).astype(np.float32)


@pytest.fixture(scope="module", name="boxed")
def _boxed():
  return MODULE.init(jax.random.key(0), _embeddings(2))["params"]


@pytest.fixture(scope="module", name="started")
def _started(boxed):
  return rq_vae.init_codebooks_by_kmeans(MODULE, nn.meta.unbox(boxed), _embeddings())


def _train(params, steps, name=None):
  """Returns (params, first loss, last loss) of plain Adam on all embeddings."""
  loss, optimizer = rq_vae.rq_vae_loss_fn(MODULE, name), optax.adam(3e-3)
  batch = {"embedding": _embeddings()}

  def mean(params, key):
    total, weight, _ = loss(params, batch, key)
    return total / weight

  @jax.jit
  def run(params):
    def step(carry, key):
      params, state = carry
      value, grads = jax.value_and_grad(mean)(params, key)
      updates, state = optimizer.update(grads, state)
      return (optax.apply_updates(params, updates), state), value

    keys = jax.random.split(jax.random.key(0), steps)
    (params, _), values = jax.lax.scan(step, (params, optimizer.init(params)), keys)
    return params, values

  params, values = run(params)
  return params, float(values[0]), float(values[-1])


def test_quantise_takes_the_nearest_codeword_of_what_is_left():
  draw = np.random.default_rng(1)
  latents, codebooks = draw.normal(size=(9, 4)), draw.normal(size=(3, 5, 4))
  residuals, codewords, codes = rq_vae.quantise(jnp.float32(latents), jnp.float32(codebooks))
  left = latents.copy()
  for level in range(3):
    expected = ((left[:, None] - codebooks[level]) ** 2).sum(-1).argmin(1)
    np.testing.assert_array_equal(codes[:, level], expected)
    np.testing.assert_allclose(residuals[:, level], left, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(codewords[:, level], codebooks[level][expected], rtol=1e-6)
    left = left - codebooks[level][expected]


def test_residuals_carry_no_gradient_to_earlier_codewords():
  draw = np.random.default_rng(1)
  latents, codebooks = jnp.float32(draw.normal(size=(9, 4))), jnp.float32(draw.normal(size=(3, 5, 4)))
  grads = jax.grad(lambda *a: (rq_vae.quantise(*a)[0] ** 2).sum(), argnums=(0, 1))(latents, codebooks)
  assert np.abs(grads[0]).min() > 0
  np.testing.assert_array_equal(grads[1], 0)


def test_reconstruction_gradient_passes_straight_to_the_encoder_and_not_to_the_codebooks(started):
  x = _embeddings(8)
  gradient = jax.grad(lambda p: (MODULE.apply({"params": p}, x).reconstruction ** 2).sum())(started)
  np.testing.assert_array_equal(gradient["codebooks"], 0)
  # What reaches the encoder's last bias is the decoder's gradient at the sum of codewords.
  out = MODULE.apply({"params": started}, x)
  decode = lambda z: (MODULE.apply({"params": started}, z, method=lambda m, z: m.decoder(z)) ** 2).sum()
  expected = jax.grad(decode)(out.codewords.sum(1)).sum(0)
  np.testing.assert_allclose(gradient["encoder"]["layer_1"]["bias"], expected, rtol=1e-3, atol=1e-4)


def test_axis_names_are_logical(boxed):
  assert boxed["codebooks"].names == (None, "vocab", "embed")
  names = lambda part: [boxed[part][f"layer_{layer}"]["kernel"].names for layer in range(2)]
  assert names("encoder") == [(None, "mlp"), ("mlp", "embed")]
  assert names("decoder") == [("embed", "mlp"), ("mlp", None)]


def test_start_uses_every_code_where_random_codebooks_collapse(boxed, started):
  x = _embeddings()
  usage = lambda params: metrics.code_usage(rq_vae.encode(MODULE, params, x), 8)
  np.testing.assert_array_equal(usage(started), [1, 1])
  assert usage(nn.meta.unbox(boxed))[0] < 1
  again = rq_vae.init_codebooks_by_kmeans(MODULE, started, x)
  np.testing.assert_allclose(again["codebooks"], started["codebooks"], rtol=1e-5, atol=1e-5)


def test_start_keeps_boxes_and_standardises_the_input(boxed):
  params = rq_vae.init_codebooks_by_kmeans(MODULE, boxed, _embeddings())
  assert params["codebooks"].names == (None, "vocab", "embed")
  inputs = MODULE.apply({"params": nn.meta.unbox(params)}, _embeddings(), method="standardise")
  np.testing.assert_allclose(inputs.mean(0), 0, atol=1e-4)
  np.testing.assert_allclose((inputs**2).mean(), 1, rtol=1e-4)


def test_training_lowers_loss_and_reconstruction_error_and_keeps_constants(started):
  x = _embeddings()
  params, first, last = _train(started, 150)
  assert last < 0.7 * first
  error = lambda p: metrics.reconstruction_error(x, rq_vae.reconstruct(MODULE, p, rq_vae.encode(MODULE, p, x)))
  assert error(params) < 0.35 < error(started)
  np.testing.assert_array_equal(params["input_mean"], started["input_mean"])
  assert float(params["input_scale"]) == float(started["input_scale"])


def test_loss_reads_named_parameters_and_the_where_column(started):
  x = _embeddings(10)
  own = rq_vae.rq_vae_loss_fn(MODULE)(started, {"embedding": x[:6]}, None)
  batch = {"poi": np.where(np.arange(10)[:, None] < 6, x, np.nan), "where": np.arange(10) < 6}
  named = rq_vae.rq_vae_loss_fn(MODULE, "tokenizer", "poi")({"tokenizer": started}, batch, None)
  np.testing.assert_allclose(own[0], named[0], rtol=1e-5)
  assert named[1] == 6 and set(named[2]) == {"reconstruction", "codebook", "commitment"}


def test_identical_embeddings_share_a_path_and_encode_agrees_with_the_forward_pass(started):
  x = np.repeat(_embeddings(30), 4, axis=0)
  codes = rq_vae.encode(MODULE, started, x)
  np.testing.assert_array_equal(codes, np.repeat(codes[::4], 4, axis=0))
  np.testing.assert_array_equal(codes[::4], MODULE.apply({"params": started}, x[::4]).codes)
