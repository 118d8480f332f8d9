"""From a request to lists with creatives and click probabilities: the pieces that stages and systems share.

Everything is a function of (models, params, request): `Models` holds the modules (static), `params` the one tree of
leaves "catalog", "ids", "generator", "reward", "market". memory: what the generator's `encode` returns; task:
NEXT_VISITS or LIST; belief: f32[B, C], log click probabilities of `believed_alone`, None: not known.
"""

import dataclasses

import jax
import jax.numpy as jnp

from ega_jax.decoding.lists import Decoder
from ega_jax.decoding.prior import ListPrior
from ega_jax.decoding.slate import Objective
from ega_jax.models.ega import EGA
from ega_jax.models.ega_config import LIST
from ega_jax.models.reward import RewardModel
from ega_jax.nn.attention import write_rows
from ega_jax.types import CandidateTable, record


@dataclasses.dataclass(frozen=True)
class Models:
  """The modules of EGA; hashable, so that a jitted function takes it as a static argument."""

  generator: EGA
  reward: RewardModel


@record
class Prepared:
  """A request made ready for decoding."""

  request: object
  memory: object
  table: CandidateTable
  prior: ListPrior | jax.Array | None  # f32[B, C] where it does not see the list; None without an item prior
  alone: dict | None  # {"poi", "creative"}: `alone` of every candidate; None without a reward model


def objective(market) -> Objective:
  """Returns what params["market"] sets against bids: its "slot_price" is in units of its "bid_scale"."""
  return Objective(market["organic_weight"], market["slot_price"] * market["bid_scale"])


def host_objective(params) -> Objective:
  """Returns `objective` of a tree's market in Python floats, for arithmetic on the host."""
  return Objective(*map(float, objective(params["market"])))


def at_slot_price(params, slot_price):
  """Returns the tree whose ad slots cost `slot_price` median bids."""
  return {**params, "market": {**params["market"], "slot_price": jnp.float32(slot_price)}}


def in_market(lists, market):
  """Returns the ListConfig in the units of a market, params["market"].

  Bids are divided by the logs' median. An organic item weighs as much as an ad that bids what the list score says an
  organic click is worth, w = organic_weight^alpha + beta: one objective for tokens and lists (our decision; the paper's
  organic items bid 0 and weigh beta, which at a given ad share would have to be made up for by the logits).
  """
  scale = market["bid_scale"]
  worth = market["organic_weight"] / scale
  return dataclasses.replace(lists, bid_scale=scale, organic_beta=worth**lists.alpha + lists.beta)


def expected_bids(request, sigma):
  """Returns f32[B, C]: the mean of each ad's value given the request, exp(mu + sigma^2 / 2); organic 0.

  What lists that ignore bids are generated with: the platform knows the distribution, and no report moves it.
  """
  return jnp.where(request.is_ad, jnp.exp(request.value_mu + 0.5 * sigma**2), 0.0)


def candidate_table(request, ids) -> CandidateTable:
  """Returns the candidates of a request as decoding sees them; organic items are ranked by their position."""
  valid = request.candidates >= 0
  position = jnp.broadcast_to(jnp.arange(valid.shape[1]), valid.shape)
  codes = jnp.where(valid[..., None], ids.poi[jnp.maximum(request.candidates, 0)], -1)
  rank = jnp.where(valid & ~request.is_ad, position, -1)
  return CandidateTable(codes=codes, valid=valid, is_ad=request.is_ad & valid, organic_rank=rank)


def apply(module, params, method, *args, **kwargs):
  """Returns module.apply of a method; `rng` in kwargs feeds dropout."""
  rng = kwargs.pop("rng", None)
  rngs = None if rng is None else {"dropout": rng}
  return module.apply({"params": params}, *args, method=method, rngs=rngs, **kwargs)


def prepare(models, params, request, *, rng=None, task=LIST, visits_only=False) -> Prepared:
  """Returns memory, candidate table and item prior of a request; dropout is on where an rng is given.

  Where `params` hold a reward model, the prior contains what it believes of every candidate alone. visits_only: the
  clicks of the history are hidden.
  """
  generator, catalog, ids = params["generator"], params["catalog"], params["ids"]
  memory = apply(
    models.generator, generator, "encode", request, ids, catalog,
    deterministic=rng is None, visits_only=visits_only, rng=rng,
  )  # fmt: skip
  logits = alone(models, params, request) if "reward" in params else None
  belief = None if logits is None else believed_alone(logits)
  prior = list_prior(models, params, memory, request, task, belief)
  table = candidate_table(request, ids)
  found = Prepared(request=request, memory=memory, table=table, prior=prior, alone=logits)
  return charged(found, params["market"])


def charged(prepared, market) -> Prepared:
  """Returns a Prepared at the slot price of `market`; nothing else of it depends on the ad load. As it is without a
  reward model.
  """
  if prepared.alone is None:
    return prepared
  price, belief = objective(market).slot_price, believed_alone(prepared.alone)
  charge = jnp.where(prepared.table.is_ad, price * jnp.exp(-belief), 0.0)
  return dataclasses.replace(prepared, table=dataclasses.replace(prepared.table, slot_charge=charge))


def believed_alone(logits):
  """Returns f32[B, C]: the log-probability of a POI click on each candidate alone, with the best of its creatives."""
  return jnp.max(jax.nn.log_sigmoid(logits["poi"]), axis=-1)


def alone(models, params, request):
  """Returns {"poi", "creative"}: the reward model's list-blind logits f32[B, C, R] of each candidate in the first slot
  with each of its own creatives; a very low one where there is no such creative. Nothing flows into them.
  """
  batch, candidates = request.candidates.shape
  own = params["catalog"].poi_creatives[jnp.maximum(request.candidates, 0)]
  own = jnp.where((request.candidates >= 0)[..., None], own, -1)
  items = jnp.where(own >= 0, jnp.arange(candidates)[:, None], -1)
  flat = lambda x: x.reshape(batch, 1, -1)
  variables = {"params": params["reward"]}
  logits = models.reward.apply(variables, request, params["catalog"], flat(items), flat(own), alone=True)
  read = lambda x: jax.lax.stop_gradient(jnp.where(own >= 0, x.reshape(own.shape), -30.0))
  return {name: read(logits[f"{name}_alone"]) for name in ("poi", "creative")}


def item_prior(models, params, memory, request, candidates, is_ad=None, task=LIST, belief=None):
  """Returns the prior f32[B, C] of POIs candidates i32[B, C]; None if the generator has none. is_ad: bool[B, C] or
  None.
  """
  if not models.generator.config.item_prior:
    return None
  return apply(
    models.generator, params["generator"], "candidate_logits", memory, request, params["catalog"], candidates,
    is_ad=is_ad, task=task, belief=belief,
  )  # fmt: skip


def list_prior(models, params, memory, request, task=LIST, belief=None):
  """Returns the prior of a request's candidates: a ListPrior, f32[B, C] if the generator's does not see the list, None
  if it has none.
  """
  base = item_prior(models, params, memory, request, request.candidates, request.is_ad, task, belief)
  if base is None or not models.generator.config.list_prior:
    return base
  found = apply(
    models.generator, params["generator"], "candidate_relations", params["catalog"], request.candidates
  )  # fmt: skip
  return ListPrior(base, *found, is_ad=request.is_ad & request.valid)


def decoder(models, params, memory, length, task=LIST) -> Decoder:
  """Returns the generator as beam search sees it; `length` positions, K * L for a list, are cached."""

  def init(num_prefixes):
    return apply(models.generator, params["generator"], "init_cache", memory, num_prefixes, length)

  def step(cache, token, position):
    return apply(models.generator, params["generator"], "decode_step", memory, cache, token, position, task)

  return Decoder(init=init, step=step, write=write_rows)


def list_codes(table, items):
  """Returns i32[B, ..., K, L]: codes of the list entries items i32[B, ..., K]; those of absent entries are -1."""
  codes = jax.vmap(lambda codes, item: codes[jnp.maximum(item, 0)])(table.codes, items)
  return jnp.where(items[..., None] >= 0, codes, -1)


def list_pois(request, items):
  """Returns POI ids i32[B, ..., K] of list entries, -1 where absent."""
  poi = jax.vmap(lambda row, item: row[jnp.maximum(item, 0)])(request.candidates, items)
  return jnp.where(items >= 0, poi, -1)


def click_probabilities(models, params, request, items, creatives):
  """Returns the reward model's POI-click probabilities f32[B, U, K], 0 where there is no item (EGA Eq. 18-20).

  items, creatives i32[B, U, K]: positions in the candidates, creative ids.
  """
  logits = models.reward.apply({"params": params["reward"]}, request, params["catalog"], items, creatives)
  return jnp.where(items >= 0, jax.nn.sigmoid(logits["poi"]), 0.0)
