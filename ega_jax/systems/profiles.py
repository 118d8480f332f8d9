"""Own-bid profiles of a batch: one ad's bid moves, the others' stand. Proposals see bids in cells (`proposal_bids`), so
that a curve needs the lists of its cells only, and every bid in a cell chooses among the same.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from ega_jax.decoding.beam import own_bid_sweep
from ega_jax.decoding.lists import LOWEST_BID, proposal_bids
from ega_jax.systems import generation
from ega_jax.systems.choice import score_bids, token_bids
from ega_jax.types import Lists, record


@record
class OwnBidLists:
  """Every list that the own bids of some ads can bring forth, and what is believed of it."""

  cells: np.ndarray  # f32[B, A, D]  what proposals see of the own bids, ascending
  found: Lists  # of the A * D profiles
  creatives: jax.Array  # i32[B, U, K]
  theta: jax.Array  # f32[B, U, K]

  def place(self, cells):
    """Returns i[B, A, G]: which of the own cells each of `cells` f32[B, A, G] is; None unless all are among them."""
    index = (self.cells[..., None, :] < cells[..., None]).sum(-1)
    found = np.take_along_axis(self.cells, np.minimum(index, self.cells.shape[-1] - 1), -1)
    return index if (found == cells).all() else None


def present_columns(ads):
  """Returns (columns i[B, A'], back i[B, A]): the columns of ads i[B, A] that hold one, and where each went.

  A' is a multiple of 4, so that few sizes are compiled. Absent ads (-1) point at another's column.
  """
  width = int((ads >= 0).sum(1).max(initial=1))
  width = min(-(-width // 4) * 4, ads.shape[1])
  order = np.argsort(ads < 0, axis=1, kind="stable")
  return order[:, :width], np.minimum(np.argsort(order, axis=1, kind="stable"), width - 1)


def distinct_columns(values):
  """Returns (distinct f[B, A, D], back i[B, A, G]): the distinct entries of each row of values f[B, A, G], ascending,
  and which of them each entry is. Host-side.

  D is a multiple of 12, so that few sizes are compiled, or G; rows with fewer repeat their largest.
  """
  values = np.asarray(values)
  order = np.argsort(values, axis=-1, kind="stable")
  ordered = np.take_along_axis(values, order, -1)
  rank = np.cumsum(np.diff(ordered, axis=-1, prepend=ordered[..., :1]) > 0, axis=-1)
  width = min(-(-int(rank.max(initial=0) + 1) // 12) * 12, values.shape[-1])
  distinct = np.repeat(ordered[..., -1:], width, axis=-1)
  np.put_along_axis(distinct, rank, ordered, -1)
  back = np.empty_like(rank)
  np.put_along_axis(back, order, rank, -1)
  return distinct, back


def cells_between(cells, lists):
  """Returns f32[B, A, D]: the distinct `cells` f32[B, A, G] of own bids and all others below the largest of each row.

  What asks for a curve at some bids asks for it at others next (refinement, another payment): lists of every cell that
  a bid in between can fall into are found at once. lists: ListConfig in the units of the market. Host-side.
  """
  cells = np.asarray(cells)
  top = float(cells.max(initial=0.0))
  if lists.bid_cell == 1 or top <= 0:
    return distinct_columns(cells)[0]
  ratio, scale = np.log(lists.bid_cell), float(lists.bid_scale)
  powers = np.arange(np.floor(np.log(LOWEST_BID) / ratio), np.round(np.log(top / scale) / ratio) + 1)
  grid = np.asarray(_rounded(jnp.asarray(scale * np.exp(powers * ratio), jnp.float32), lists))
  largest = cells.max(-1, keepdims=True)
  return distinct_columns(np.concatenate([cells, np.where(grid <= largest, grid, largest)], -1))[0]


_rounded = jax.jit(proposal_bids)


@jax.jit
def own_bid_profiles(bids, ads, nodes):
  """Returns f32[B, A * G, C]: bids f32[B, C] with ad ads i32[B, A] at node nodes f32[B, A, G]."""
  batch, num_ads, num_nodes = nodes.shape
  profiles = jnp.broadcast_to(bids[:, None, None], (batch, num_ads, num_nodes, bids.shape[-1]))
  own = (jnp.arange(bids.shape[-1]) == ads[..., None])[:, :, None]
  return jnp.where(own, nodes[..., None], profiles).reshape(batch, num_ads * num_nodes, -1)


@functools.partial(jax.jit, static_argnames=("models", "options"))
def propose_own_bids(models, options, params, prepared, bids, ads, moved, lists):
  """Returns Lists of the A * D profiles in which ads i32[B, A] are worth moved f32[B, A, D] to tokens, the others bid
  bids f32[B, C].

  Args: models, params: as in `generation`; options: choice.Options; prepared: generation.Prepared; lists: ListConfig.
  """
  config = generation.in_market(lists, params["market"])
  length = config.list_length * prepared.table.codes.shape[-1]
  decoder = generation.decoder(models, params, prepared.memory, length)
  base = token_bids(options, score_bids(options, prepared.request, bids))
  return own_bid_sweep(decoder, prepared.table, base, ads, moved, prepared.prior, config)


@functools.partial(jax.jit, static_argnames=("options",))
def own_bid_cells(options, request, market, nodes, ads, lists):
  """Returns f32[B, A, G]: what the token weights see of own bids nodes f32[B, A, G] of ads i32[B, A].

  Args: options: choice.Options; request: Request; market: params["market"]; lists: ListConfig.
  """
  worth = token_bids(options, score_bids(options, request, nodes, ads))
  return proposal_bids(worth, generation.in_market(lists, market))
