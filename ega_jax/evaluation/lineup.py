"""The systems of the comparison, each with its payment rule, from the final parameters of a run's stages."""

import dataclasses
import functools

import jax
import numpy as np

from ega_jax.baselines.cascade import Cascade
from ega_jax.baselines.list_generation import ListGeneration
from ega_jax.evaluation import payments
from ega_jax.evaluation.oracle import Oracle, PopularityFloor
from ega_jax.stages import recipe
from ega_jax.systems import generation
from ega_jax.systems.balance import LOADS
from ega_jax.systems.ega import Options
from ega_jax.systems.payment import PivotPayment


@dataclasses.dataclass(frozen=True)
class Entry:
  """A row of the table."""

  name: str
  system: object
  rule: object
  note: str = ""
  knob: tuple = LOADS  # bracket of the ad-load knob; () where the stage has fitted it, or there is none

  @property
  def by_slot_price(self):
    """Whether the knob is the price of an ad slot."""
    return self.knob in (LOADS, ())

  @property
  def parameters(self):
    """How many learned numbers the allocation and its prices read."""
    learned = [getattr(part, "learned", ()) for part in (self.system, self.rule)]
    return sum(leaf.size for leaf in jax.tree.leaves(learned))


def systems(config, finals, world=None, only=(), *, priced=True):
  """Returns an iterator over the Entries of a finished run, at the ad loads their own knobs are at now.

  Args:
    finals: {stage: params} of recipe.stages.
    world: the truth, for the oracle row; None leaves it out.
    only: names of the rows; empty: config.systems.
    priced: False where allocations alone are asked for: learned payments are left out, and their stages not needed.
  Raises: ValueError for an unknown name.
  """
  rows = builders(config, finals, world, priced)
  names = tuple(only or config.systems)
  for name in names:
    if name not in rows:
      raise ValueError(f"system {name!r} is unknown; allowed: {', '.join(rows)}")
  if world is None and "oracle" in only:
    raise ValueError("system 'oracle' sees the truth, which is not given here; allowed: the other systems")
  if priced and "EGA-rate" in names and "payment_rate" not in finals:
    raise ValueError("system 'EGA-rate' needs the stage payment_rate; name it in config.systems and train")
  return (rows[name]() for name in names if name != "oracle" or world is not None)


def builders(config, finals, world, priced=True):
  """Returns {row name: function -> Entry}, of every row in stages.defaults.SYSTEMS. Arguments as in `systems`."""
  models = recipe.build_models(config, recipe.data_sizes(config.data))
  num_lists, length, nodes = config.lists.num_lists, config.list_length, config.evaluation.nodes
  on_nodes = {"num_nodes": nodes, "refinements": config.evaluation.refinements, "sigma": config.value_sigma}
  gsp = lambda system: payments.slot_threshold(system, **on_nodes)
  with_gsp = lambda name, system, note, *knob: Entry(name, system, gsp(system), note, *knob)

  def cascade(name, note, knob=LOADS, market=(), **settings):
    params = {**finals["ranker"], "market": {**finals["ranker"]["market"], **dict(market)}}
    system = Cascade(name, recipe.build_ranker(config), params, length, models=models, **settings)
    return with_gsp(name, system, note, knob)

  def searched(rounds):
    note = f"best of {num_lists} neighbours, {rounds} times over"
    return cascade("MCA+R-rounds", note, num_lists=num_lists, rounds=rounds)

  def cascade_by_ega():
    market = {"organic_weight": finals["policy"]["market"]["organic_weight"]}
    settings = {"num_lists": num_lists, "options": recipe.bid_options(config)}
    return cascade("MCA+R-objective", "MCA+R by EGA's exchange rate and virtual share", market=market, **settings)

  def ega(name, stage="policy", **options):
    return recipe.ega_system(config, models, finals[stage], Options(value_sigma=config.value_sigma, **options), name)

  # One object for the rows that differ by their payments alone, with bids and without.
  plain = functools.cache(lambda: recipe.ega_system(config, models, finals["policy"]))
  bid_free = functools.cache(lambda: free("bid-free lists"))

  def learned(name, stage, form, note):
    system = plain()
    if not priced:
      return Entry(name, system, payments.Free(), note, ())
    return Entry(name, system, recipe.learned_payment(config, system, form, finals[stage], stage), note, ())

  def free(name):
    return ega(name, "policy_bid_free" if "policy_bid_free" in finals else "policy", bid_free=True)

  def knobbed(name, build, knob, note, loads=LOADS):
    return Entry(name, Knobbed(build, knob), payments.Free(), note, loads)

  def ranged():
    system = bid_free()
    return Entry("EGA-vcg_range", system, PivotPayment(system), "bid-free lists, exactly truthful")

  def virtual():
    system = ega("EGA-virtual", virtual=1.0)
    return Entry("EGA-virtual", system, payments.myerson(system, **on_nodes), "virtual bids, Myerson integral")

  catalog = finals["policy"]["catalog"]
  popularity, creatives = np.asarray(catalog.poi_popularity), np.asarray(catalog.poi_creatives)
  floor = lambda organic: PopularityFloor(popularity, creatives, length, organic_weight=organic)

  def oracle(price):
    objective = generation.host_objective(generation.at_slot_price(finals["reward"], price))
    return Oracle(world, creatives, length, objective=objective)

  return {
    "popularity": lambda: knobbed(
      "popularity", floor, 1.0, "floor: by popularity, free of charge", (0.01, 1e4)
    ),
    "MCA-fixed": lambda: cascade(
      "MCA-fixed", "fixed ad slots", (0.0, float(length)), slots="fixed", fixed_ads=0.3 * length
    ),
    "MCA": lambda: cascade("MCA", "slots by b * pCTR"),
    "MCA+R": lambda: cascade("MCA+R", f"best of {num_lists} neighbours by the reward model", num_lists=num_lists),
    "MCA+R-objective": cascade_by_ega,
    "MCA+R-rounds": lambda: searched(4),
    "GR": lambda: with_gsp("GR", ListGeneration("GR", free("GR")), "bid-free lists, ads ranked by b * pCTR"),
    "GR+R": lambda: with_gsp("GR+R", bid_free(), f"best of {num_lists} bid-free lists by the reward model"),
    "EGA": lambda: learned("EGA", "payment", "price", "learned price"),
    "EGA-gsp": lambda: with_gsp("EGA-gsp", plain(), "EGA's lists, GSP", ()),
    "EGA-rate": lambda: learned("EGA-rate", "payment_rate", "rate", "EGA's lists, the paper's rate form"),
    "EGA-vcg_range": ranged,
    "EGA-virtual": virtual,
    "oracle": lambda: knobbed("oracle", oracle, 0.0, "sees the truth: bound on score(Y)"),
  }


class Knobbed:
  """A system built anew, by build(knob), for every ad load."""

  def __init__(self, build, knob):
    self.build, self.knob = build, knob
    self.system = build(knob)
    self.name = self.system.name

  def with_knob(self, knob):
    """Returns the same system at another ad load."""
    return Knobbed(self.build, knob)

  def forget(self):
    """Nothing is kept."""

  def allocate(self, batch, bids):
    """Returns the Slate of the system at this load."""
    return self.system.allocate(batch, bids)
