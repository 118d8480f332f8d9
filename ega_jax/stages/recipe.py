"""EGA's recipe: which modules, which stages, in which order."""

import dataclasses

import jax

from ega_jax.data.pipeline import read_catalog
from ega_jax.data.records import read_schema
from ega_jax.decoding.lists import ListConfig
from ega_jax.models import ega, ega_config, reward
from ega_jax.models.payment import payment_network
from ega_jax.models.ranker import Ranker
from ega_jax.stages.align import align_stage
from ega_jax.stages.batches import held_back_folds
from ega_jax.stages.defaults import EQUILIBRIUM_LOADS, SYSTEMS
from ega_jax.stages.payment import payment_stage
from ega_jax.stages.policy import policy_stage
from ega_jax.stages.pretrain import pretrain_stage
from ega_jax.stages.ranges import check_ranges
from ega_jax.stages.ranker import ranker_stage
from ega_jax.stages.reward import reward_stage
from ega_jax.stages.tokenizer import tokenizer_stage
from ega_jax.systems.ega import EGASystem, Options
from ega_jax.systems.generation import Models
from ega_jax.systems.payment import LearnedPayment

PRESETS = {"tiny": ega_config.tiny, "small": ega_config.small, "paper": ega_config.paper}


@dataclasses.dataclass(frozen=True)
class Sizes:
  """What of the data fixes the shape of a model."""

  num_pois: int
  num_users: int
  num_creatives: int


def data_sizes(directory) -> Sizes:
  """Returns the sizes of prepared data."""
  catalog = read_catalog(directory)
  return Sizes(len(catalog.poi_place), read_schema(directory)["sizes"]["users"], len(catalog.creative_poi))


def check_pages(config):
  """Raises ValueError unless lists are to be as long as those of the prepared data, which are learned from."""
  if not config.data:
    raise ValueError("config.data is empty; allowed: --config.data=DIR, a folder that launch.prepare_data has filled")
  logged = read_schema(config.data)["sizes"]["list_length"]
  if config.list_length != logged:
    raise ValueError(
      f"config.list_length is {config.list_length}; the lists of {config.data} have {logged} items; allowed: {logged}, "
      f"or data of launch.prepare_data --list_length={config.list_length}"
    )


def check_settings(config):
  """Raises ValueError for what would be refused only after hours of training."""
  check_ranges(config)
  checks = [(f"systems has {name!r}", name in SYSTEMS, ", ".join(SYSTEMS)) for name in config.systems]
  checks += [
    (f"evaluation.equilibrium_loads has {load!r}", load in EQUILIBRIUM_LOADS, ", ".join(EQUILIBRIUM_LOADS))
    for load in config.evaluation.equilibrium_loads
  ]
  chunk, folds, least = config.evaluation.chunk, config.reward.held_back_folds, int(config.judge)
  requests = config.payment.requests
  checks.append((f"payment.requests is {requests}", requests >= chunk, f"{chunk} or more, evaluation.chunk"))
  checks.append((f"reward.held_back_folds is {folds}", least <= folds <= 9, f"{least} to 9 with judge={config.judge}"))
  for what, holds, allowed in checks:
    if not holds:
      raise ValueError(f"config.{what}; allowed: {allowed}")


def build_models(config, sizes: Sizes) -> Models:
  """Returns the generator and the reward model of a config. Raises ValueError for an unknown config.model.preset."""
  chosen = config.model.to_dict()
  preset = chosen.pop("preset")
  if preset not in PRESETS:
    raise ValueError(f"config.model.preset is {preset!r}; allowed: {', '.join(PRESETS)}")
  tokens = config.tokenizer
  generator = PRESETS[preset](
    num_pois=sizes.num_pois, num_users=sizes.num_users, poi_levels=tokens.levels + 1,
    poi_vocabulary=tokens.codebook_size, creative_levels=tokens.levels,
    creative_vocabulary=tokens.creative_codebook_size, max_items=max(config.list_length, config.pretrain.targets),
    **chosen,
  )  # fmt: skip
  return Models(ega.EGA(generator), reward.RewardModel(_encoder_config(config, sizes)))


def _encoder_config(config, sizes, **changes):
  settings = {"max_positions": config.list_length, **config.reward.model, **changes}
  return reward.RewardConfig(sizes.num_pois, sizes.num_users, sizes.num_creatives, **settings)


def list_config(config, **changes) -> ListConfig:
  """Returns how lists are generated; the bid scale is filled in from the training logs' median."""
  return ListConfig(**{"list_length": config.list_length, **config.lists, **changes})


def process():
  """Returns (index, count) of this process."""
  return jax.process_index(), jax.process_count()


def stages(config, workdir, models=None):
  """Returns EGA's stages and those of the systems it is compared with, in order.

  tokenizer, pretrain, reward, policy, payment are EGA's five; align, ours, goes before policy. policy_bid_free is the
  generator of lists that ignore bids (GR, vcg_range); payment_rate the paper's payment form on the same allocation;
  ranker the cascade's models; judge a second reward model, of held-back logs, that scores choices on validation. The
  click models (reward, ranker, judge) need no generator and can be trained beside it.
  """
  check_pages(config)
  check_settings(config)
  models = models or build_models(config, data_sizes(config.data))
  share = {"process": process()}
  lists = list_config(config)
  system_of = lambda params: ega_system(config, models, params)
  found = [
    tokenizer_stage(config, **share),
    pretrain_stage(config, models, **share),
    reward_stage(config, models, **share),
    align_stage(config, models, lists, **share),
    policy_stage(config, models, lists, **share),
    payment_stage(config, system_of, "price", workdir, **share),
    ranker_stage(config, build_ranker(config), **share),
  ]
  if config.bid_free_policy:
    found.insert(-1, policy_stage(config, models, lists, name="policy_bid_free", bid_free=True, **share))
  if "EGA-rate" in config.systems:
    found.append(payment_stage(config, system_of, "rate", workdir, name="payment_rate", **share))
  if config.judge:
    folds = held_back_folds(config)
    found.append(reward_stage(config, models, name="judge", folds=folds, **share))
  return found


def ega_system(config, models, params, options=None, name="EGA") -> EGASystem:
  """Returns EGA with the generator, reward model and ad-load knob of `params`; options None: those of the config."""
  options = options or bid_options(config)
  return EGASystem(name, models, params, list_config(config), options, sweep_prefixes=config.sweep_prefixes)


def bid_options(config) -> Options:
  """Returns what a bid is worth to EGA's list score."""
  return Options(value_sigma=config.value_sigma, virtual=config.policy.virtual_share)


def learned_payment(config, system, form, params, name="payment") -> LearnedPayment:
  """Returns the rule of a payment stage's final `params`, form "price" or "rate", over a system."""
  settings = {"num_nodes": config.payment.nodes, "sigma": config.value_sigma}
  return LearnedPayment(name, system, payment_network(form), params, **settings)


def build_ranker(config) -> Ranker:
  """Returns the cascade's click models, of the reward model's sizes."""
  return Ranker(_encoder_config(config, data_sizes(config.data)))
