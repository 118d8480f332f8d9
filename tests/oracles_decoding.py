"""Slow, independent decoding in Python dictionaries and float64: prefixes are tuples of codes, legality is set
arithmetic, nothing is shared with ega_jax.decoding.
"""

import dataclasses
import math

import numpy as np


@dataclasses.dataclass
class Market:
  """One request: codes [C][L] tuples, kinds 'ad' / 'organic' / None (padding), organic ranks.

  A prior that sees the list: relation[j][i] is what a shown j adds to i, times decay by the slots between; ad_slot by
  the slot that is filled.
  """

  codes: list
  kinds: list
  ranks: list
  bids: list
  prior: list
  charges: list = None
  relation: list = None
  decay: list = None
  ad_slot: list = None
  alpha: float = 1.2
  beta: float = 2.0
  bid_scale: float = 1.0
  organic_beta: float = None
  token_bid: str = "max"
  use_bids: bool = True
  use_prior: bool = True
  masked: frozenset = frozenset()
  reuse: bool = False

  def legal(self, taken):
    """Items that may follow the items `taken`."""
    every = [i for i, kind in enumerate(self.kinds) if kind and i not in self.masked]
    if self.reuse:
      return set(every)
    organic = [i for i in every if self.kinds[i] == "organic" and i not in taken]
    ads = {i for i in every if self.kinds[i] == "ad" and i not in taken}
    return ads | ({min(organic, key=lambda i: self.ranks[i])} if organic else set())

  def prior_after(self, taken):
    """{item: prior} once the items `taken` are shown, in this order."""
    prior = dict(enumerate(self.prior))
    if self.relation is not None:
      for i in prior:
        prior[i] += self.ad_slot[len(taken)] if self.kinds[i] == "ad" else 0.0
        for between, j in enumerate(reversed(taken)):
          prior[i] += self.decay[between] * self.relation[j][i]
    return prior

  def net_bid(self, i):
    """What a token weight sees of an item's bid."""
    if self.kinds[i] != "ad":
      return 0.0
    return self.bids[i] if self.charges is None else max(self.bids[i] - self.charges[i], 0.0)

  def weight(self, items, prior):
    """w of a token with `items` under it."""
    organic_beta = self.beta if self.organic_beta is None else self.organic_beta
    power = lambda bid: (max(bid, 0.0) / self.bid_scale) ** self.alpha
    bid = {i: self.net_bid(i) for i in items}
    beta = {i: self.beta if self.kinds[i] == "ad" else organic_beta for i in items}
    if self.token_bid == "max":
      return max(power(bid[i]) + beta[i] for i in items)
    if self.token_bid == "expected":
      top = max(prior[i] for i in items)
      share = {i: math.exp(prior[i] - top) if self.use_prior else 1.0 for i in items}
      return sum(share[i] * (power(bid[i]) + beta[i]) for i in items) / sum(share.values())
    mean = sum(bid.values()) / len(items)
    return power(mean) + sum(beta.values()) / len(items)

  def step(self, under, level, logits, prior):
    """{token: log z} over the legal tokens of a level; `under` the items still allowed, `prior` of each."""
    score = {}
    for token in {self.codes[i][level] for i in under}:
      items = [i for i in under if self.codes[i][level] == token]
      score[token] = float(logits[token])
      if self.use_prior:
        top = max(prior[i] for i in items)
        score[token] += top + math.log(sum(math.exp(prior[i] - top) for i in items))
      if self.use_bids:
        score[token] += math.log(self.weight(items, prior))
    top = max(score.values(), default=0.0)
    norm = top + math.log(sum(math.exp(s - top) for s in score.values())) if score else 0.0
    return {token: s - norm for token, s in score.items()}

  def resolve(self, under, prior):
    """The item of a finished path."""
    def key(i):
      bids = self.use_bids and self.net_bid(i) > 0
      return math.log(self.net_bid(i)) * self.alpha + prior[i] if bids else -math.inf

    return min(under, key=lambda i: (-key(i), -prior[i] if self.use_prior else 0.0, i))

  def _expand(self, beams, size):
    return sorted(beams, key=lambda beam: -beam[0])[:size]

  def beam(self, logits_of, length, size):
    """[(log z, items)] of a beam search of `size` beams, best first; logits_of(codes so far) -> [V]."""
    levels = len(self.codes[0])
    beams = [(0.0, (), ())]
    for _ in range(length):
      open_beams = [(z, items, path, self.legal(items)) for z, items, path in beams]
      prior = {items: self.prior_after(items) for _, items, _ in beams}
      for level in range(levels):
        children = []
        for z, items, path, under in open_beams:
          for token, log_z in self.step(under, level, logits_of(path), prior[items]).items():
            children.append((z + log_z, items, path + (token,), {i for i in under if self.codes[i][level] == token}))
        open_beams = self._expand(children, size)
      beams = [(z, items + (self.resolve(under, prior[items]),), path) for z, items, path, under in open_beams]
    return [(z, items) for z, items, _ in beams]

  def log_z(self, logits_of, items):
    """Log z of each item of a list, given those before it."""
    path, result = (), []
    for k, item in enumerate(items):
      under, prior, total = self.legal(items[:k]), self.prior_after(items[:k]), 0.0
      for level, code in enumerate(self.codes[item]):
        total += self.step(under, level, logits_of(path), prior)[code]
        under = {i for i in under if self.codes[i][level] == code}
        path += (code,)
      result.append(total)
    return result


def random_markets(
  rng, batch, ads, organic, levels, vocabulary, padding=1, unique=True, list_prior=0, charged=False, **settings
):
  """Returns `batch` random markets of the same size; candidates organic first, then ads, then padding.

  list_prior: slots of a prior that sees the list, 0 for none; charged: ads pay for a slot, some more than they bid.
  """
  markets = []
  for _ in range(batch):
    size = ads + organic
    codes = set()
    while len(codes) < size:
      codes.add(tuple(int(c) for c in rng.integers(0, vocabulary, levels)))
    codes = [list(codes)[i] for i in rng.permutation(size)]
    if not unique:
      codes = [codes[rng.integers(0, max(size // 2, 1))] for _ in range(size)]
    kinds = ["organic"] * organic + ["ad"] * ads + [None] * padding
    bids = [0.0] * organic + [float(b) for b in np.float32(rng.lognormal(0.0, 1.0, ads))] + [0.0] * padding
    prior = [float(g) for g in np.float32(rng.normal(0.0, 1.5, size))] + [0.0] * padding
    ranks = list(range(organic)) + [-1] * (ads + padding)
    markets.append(Market(codes + [(0,) * levels] * padding, kinds, ranks, bids, prior, **settings))
  draw = lambda *shape: np.float32(rng.normal(size=shape)).tolist()
  if list_prior:
    decay, ad_slot = draw(list_prior), draw(list_prior)
    for market in markets:
      size = len(market.codes)
      market.relation, market.decay, market.ad_slot = draw(size, size), decay, ad_slot
  if charged:
    for market in markets:
      charges = np.float32(rng.lognormal(-0.3, 0.8, len(market.codes))).tolist()
      market.charges = [charge if kind == "ad" else 0.0 for charge, kind in zip(charges, market.kinds, strict=True)]
  return markets


class ToyModel:
  """A deterministic function of the codes so far with a cache like a transformer's, and the same function in numpy."""

  def __init__(self, rng, vocabulary, positions, width=8, scale=2.0):
    self.embedding = rng.normal(size=(vocabulary + 1, width)).astype(np.float32)
    self.place = rng.normal(size=(positions, width)).astype(np.float32)
    self.head = (scale * rng.normal(size=(width, vocabulary))).astype(np.float32)
    self.request = rng.normal(size=(64, width)).astype(np.float32)

  def logits(self, path, request):
    """float[V] after the codes `path` of request number `request`."""
    tokens = (-1,) + tuple(path)
    written = [np.float64(self.embedding[token + 1]) * self.place[t] for t, token in enumerate(tokens)]
    state = np.sum(written, axis=0) + self.request[request]
    return np.tanh(state) @ np.float64(self.head)

  def decoder(self, batch):
    """The same as a jax Decoder for requests 0..batch-1."""
    import jax.numpy as jnp

    from ega_jax.decoding.lists import Decoder

    def init(slots):
      return {"kv": jnp.zeros((1, batch, slots) + self.place.shape)}

    def step(cache, token, position):
      written = jnp.asarray(self.embedding)[token + 1] * jnp.asarray(self.place)[position]
      before = jnp.sum(cache["kv"][0] * (jnp.arange(self.place.shape[0]) < position)[:, None], 2)
      state = jnp.tanh(jnp.asarray(self.request)[:batch, None] + before + written)
      return {"kv": written}, state, jnp.matmul(state, self.head, precision="highest")

    def write(cache, rows, position):
      return {"kv": cache["kv"].at[0, :, :, position].set(rows["kv"])}

    return Decoder(init, step, write)


def stack(markets):
  """(CandidateTable, bids f32[B, C], ListPrior or prior f32[B, C]) of random markets."""
  import jax.numpy as jnp

  from ega_jax.decoding.prior import ListPrior
  from ega_jax.types import CandidateTable

  first, of = markets[0], lambda name: np.array([getattr(m, name) for m in markets], np.float32)
  kinds = np.array([[kind or "" for kind in m.kinds] for m in markets])
  table = CandidateTable(
    codes=np.array([m.codes for m in markets], np.int32),
    valid=kinds != "",
    is_ad=kinds == "ad",
    organic_rank=np.array([m.ranks for m in markets], np.int32),
    slot_charge=None if first.charges is None else of("charges"),
  )
  prior = of("prior")
  if first.relation is not None:
    shared = [jnp.asarray(values, jnp.float32) for values in (first.decay, first.ad_slot)]
    prior = ListPrior(jnp.asarray(prior), jnp.asarray(of("relation")), *shared, is_ad=jnp.asarray(table.is_ad))
  return table, of("bids"), prior
