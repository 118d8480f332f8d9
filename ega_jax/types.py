"""The nouns of ega_jax: frozen pytrees, one shape comment per field.

Sizes used everywhere: P POIs, Q creatives, B requests, C candidates of a request (organic items first, in their fixed
order, then ads; padding last), R creatives per POI (padded), K list length, L codes per POI (semantic-id levels and
suffix), Lc codes per creative, H history events, G bid profiles, U distinct lists.

Ids are positions: a POI id is a row of `Catalog.poi_*`, a creative id a row of `Catalog.creative_*`, a list entry is a
position in the request's candidates. -1 means absent.
"""

import dataclasses
from typing import Any

import jax

VISIT, CLICK, CONVERSION = 1, 2, 3  # Request.history_action; a conversion is of a click, 0 is padding

Array = Any  # jax.Array or numpy.ndarray: records hold either.


def record(cls):
  """Returns `cls` as a frozen dataclass registered as a pytree, all fields being leaves."""
  return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True)(cls))


@record
class Catalog:
  """What the platform observes of its POIs and creatives (events before the cut only)."""

  poi_embedding: Array  # f32[P, D]   content embedding
  poi_place: Array  # f32[P, 2]   kilometres in a local plane
  poi_category: Array  # i32[P]     leaf category
  poi_parent: Array  # i32[P]     parent category
  poi_popularity: Array  # f32[P]     log(1 + visits before the cut)
  poi_creatives: Array  # i32[P, R]  creative ids, -1 padded
  creative_embedding: Array  # f32[Q, E]
  creative_poi: Array  # i32[Q]


@record
class Request:
  """What the platform observes when a page is requested. Nothing of it is at or after the request."""

  user: Array  # i32[B]
  place: Array  # f32[B, 2]   where the user is, kilometres
  hour: Array  # i32[B]     hour of the week, 0..167
  history_poi: Array  # i32[B, H]  oldest first, right-aligned, -1 padded on the left
  history_creative: Array  # i32[B, H]  creative clicked, -1 for none (visits)
  history_action: Array  # i32[B, H]  0, VISIT, CLICK or CONVERSION
  history_hour: Array  # i32[B, H]  hour of the week of the event
  history_age: Array  # f32[B, H]  hours before the request
  successor_poi: Array  # i32[B, S]  POIs that followed the last visited POI in anyone's visits so far, -1 padded
  successor_count: Array  # f32[B, S]  how often
  candidates: Array  # i32[B, C]  POI ids: organic in order, then ads, then -1
  is_ad: Array  # bool[B, C]
  bid: Array  # f32[B, C]  per click; organic and padding 0
  value_mu: Array  # f32[B, C]  location of the value's lognormal, known to the platform; organic 0

  @property
  def valid(self):
    """bool[B, C]: which candidates exist."""
    return self.candidates >= 0

  @classmethod
  def from_batch(cls, batch):
    """Returns the request columns of a batch (a dict of arrays)."""
    return cls(**{field.name: batch[field.name] for field in dataclasses.fields(cls)})


@record
class SemanticIds:
  """Codes of every item; `codes[i, :level]` is a path shared with similar items."""

  poi: Array  # i32[P, L]   last level = collision suffix
  creative: Array  # i32[Q, Lc]


@record
class CandidateTable:
  """A request's candidates as decoding sees them."""

  codes: Array  # i32[B, C, L]
  valid: Array  # bool[B, C]
  is_ad: Array  # bool[B, C]
  organic_rank: Array  # i32[B, C]  0..M-1 for organic items, -1 otherwise
  slot_charge: Array = None  # f32[B, C]  an ad's price of a slot per click expected of it, organic 0; None: no price


@record
class Lists:
  """Distinct generated lists and, per bid profile, which of them its beam returned."""

  items: Array  # i32[B, U, K]  positions in the candidates, -1 where the list does not exist
  index: Array  # i32[B, G, S]  row of `items` for each of the S lists of a profile, best z first
  log_z: Array  # f32[B, G, S]  sum of log z over the list's codes; -inf where a profile has fewer than S lists
  overflow: Array  # bool[B]      more than U distinct prefixes were needed: split the profiles and repeat


@record
class Slate:
  """One shown list per request and bid profile."""

  items: Array  # i32[B, G, K]  positions in the candidates
  creatives: Array  # i32[B, G, K]  creative ids
  click_probability: Array  # f32[B, G, K]  the POI-click probability the platform believes (theta)


@record
class Outcome:
  """What a mechanism does with a bid profile, in candidate coordinates."""

  click_probability: Array  # f[B, G, N]  x_i, 0 where not shown
  price: Array  # f[B, G, N]  per click, 0 where not shown
