"""The systems of the comparison, each with its payment rule, from the final parameters of a run's stages."""

import dataclasses

import numpy as np

from ega_jax.baselines.cascade import Cascade
from ega_jax.baselines.list_generation import ListGeneration
from ega_jax.evaluation import payments
from ega_jax.evaluation.oracle import Oracle, PopularityFloor
from ega_jax.models.payment import PaymentConfig, PaymentNetwork
from ega_jax.stages import recipe
from ega_jax.systems.ega import Options
from ega_jax.systems.payment import LearnedPayment, PivotPayment

@dataclasses.dataclass(frozen=True)
class Entry:
  """A row of the table."""

  name: str
  system: object
  rule: object
  note: str = ""
  knob: tuple = (0.1, 10.0)  # bracket of the ad-load knob; () where the stage has fitted it, or there is none


def systems(config, finals, world=None):
  """Returns the Entries of a finished run, at the ad loads their own knobs are at now.

  Args:
    finals: {stage: params} of recipe.stages.
    world: the truth, for the oracle row; None leaves it out.
  """
  models = recipe.build_models(config, recipe.data_sizes(config.data))
  cascade = lambda name, **settings: Cascade(
    name, recipe.build_ranker(config), finals["ranker"], config.list_length, models=models, **settings
  )
  ega = recipe.ega_system(config, models, finals["policy"])
  virtual = recipe.ega_system(config, models, finals["policy"], Options(virtual=True), "EGA virtual bids")
  free = recipe.ega_system(config, models, finals["policy_bid_free"], Options(bid_free=True), "GR+R")
  ranged = recipe.ega_system(config, models, finals["policy_bid_free"], Options(bid_free=True), "EGA vcg_range")
  gsp = lambda system: payments.slot_threshold(system, num_nodes=config.evaluation.nodes)
  learned = lambda stage, form: LearnedPayment(stage, ega, PaymentNetwork(PaymentConfig(form)), finals[stage])
  num_lists = config.lists.num_lists
  catalog = finals["policy"]["catalog"]
  weight = float(finals["policy"]["market"]["organic_weight"])
  poi_creatives = np.asarray(catalog.poi_creatives)
  fixed = cascade("MCA-fixed", slots="fixed", fixed_ads=0.3 * config.list_length)
  greedy, reranked = cascade("MCA"), cascade("MCA+R", num_lists=num_lists)
  listed = ListGeneration("GR", free)
  popularity = np.asarray(catalog.poi_popularity)
  floor = Knobbed(lambda weight: PopularityFloor(popularity, poi_creatives, config.list_length, organic_weight=weight))
  entries = [
    Entry("popularity", floor, payments.Free(), "floor: lists by popularity, free of charge"),
    Entry("MCA-fixed", fixed, gsp(fixed), "fixed ad slots", (0.0, float(config.list_length))),
    Entry("MCA", greedy, gsp(greedy), "slots by b * pCTR"),
    Entry("MCA+R", reranked, gsp(reranked), f"best of {num_lists} neighbours by the reward model"),
    Entry("GR", listed, gsp(listed), "bid-free lists, ads ranked by b * pCTR"),
    Entry("GR+R", free, gsp(free), f"best of {num_lists} bid-free lists"),
    Entry("EGA", ega, learned("payment", "price"), "learned price", ()),
    Entry("EGA-gsp", ega, gsp(ega), "same lists, GSP", ()),
    Entry("EGA-rate", ega, learned("payment_rate", "rate"), "same lists, the paper's rate form", ()),
    Entry("EGA-vcg_range", ranged, PivotPayment(ranged), "bid-free lists, exactly truthful"),
    Entry("EGA-virtual", virtual, payments.myerson(virtual, num_nodes=config.evaluation.nodes),
          "virtual bids, Myerson integral"),
  ]  # fmt: skip
  if world is not None:
    oracle = Knobbed(lambda weight: Oracle(world, poi_creatives, config.list_length, organic_weight=weight), weight)
    entries.append(Entry("oracle", oracle, payments.FirstPrice(), "sees the truth; bound on welfare"))
  return entries


class Knobbed:
  """A system built anew for every organic weight: weight * organic_scale."""

  def __init__(self, build, weight=1.0, organic_scale=1.0):
    self.build, self.weight, self.organic_scale = build, weight, organic_scale
    self.system = build(weight * organic_scale)
    self.name = self.system.name

  def with_knob(self, organic_scale):
    """Returns the same system at another ad load."""
    return Knobbed(self.build, self.weight, organic_scale)

  def allocate(self, batch, bids):
    """Returns the Slate of the system at this weight."""
    return self.system.allocate(batch, bids)
