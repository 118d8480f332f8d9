"""The default config of EGA's recipe. Experiments start from it and say only what they change."""

import ml_collections

SYSTEMS = (
  "popularity", "MCA-fixed", "MCA", "MCA+R", "MCA+R-objective", "GR", "GR+R", "EGA", "EGA-gsp", "EGA-rate",
  "EGA-vcg_range", "EGA-virtual", "oracle", "MCA+R-rounds",
)  # fmt: skip
EQUILIBRIUM_LOADS = ("fixed", "equal")


def base_config() -> ml_collections.ConfigDict:
  """Returns EGA's config at size `small`: two CPU cores, minutes a stage."""
  return ml_collections.ConfigDict(
    {
      "seed": 0,
      "list_length": 10,
      "value_sigma": 0.6,  # log-sd of a value per click given the request, known to the platform
      "data": "",  # directory that launch.prepare_data wrote
      "mesh": {"data": -1, "fsdp": 1, "tensor": 1},
      "tokenizer": {
        "method": "rq_vae",  # or rq_kmeans
        "levels": 3,
        "codebook_size": 64,
        "creative_codebook_size": 64,
        "steps": 600,
        "batch_size": 512,
        "learning_rate": 1e-3,
      },
      "model": {
        "preset": "small",
        "history_items": 12,
        "item_prior": True,
        "list_prior": True,  # the prior sees the list so far
        "dropout": 0.1,
      },
      "pretrain": {
        "steps": 1500,
        "batch_size": 64,
        "learning_rate": 1e-3,
        "normaliser": "legal",  # "vocabulary": the paper's softmax over codes; "legal": over codes of existing items
        "targets": 1,  # next visits predicted per example
        "full_gap": 24.0,  # hours since the last visit from which a next visit counts fully; 0: all count alike
        "visit_weight": 1.0,
        "click_weight": 1.0,
        "weight_decay": 0.01,
        "drop_clicks": 0.3,  # share of examples whose history keeps visits only
        "drop_time": 0.3,  # share of examples whose own time is unknown
      },
      "reward": {"steps": 500, "batch_size": 256, "learning_rate": 2e-3, "weight_decay": 0.3, "held_back_folds": 2,
                 # Longer or looser overfits; the ranker has the same sizes.
                 "model": {"width": 64, "dropout": 0.3, "id_dropout": 0.5, "members": 3}},
      "ranker": {"steps": 500, "batch_size": 256, "learning_rate": 2e-3, "weight_decay": 0.3},
      "align": {
        "steps": 600,
        "batch_size": 16,
        "learning_rate": 2e-3,
        "trainable": r"generator/",
        "temperature": 0.5,  # at which lists are sampled
        "rounds": 8,  # of local search from each
        "moves": 16,  # lists compared in a round
        "creative_weight": 1.0,
        "sharpness": 3.0,  # of the labels of creatives
      },
      "policy": {
        "steps": 300,
        "batch_size": 32,
        "learning_rate": 3e-4,
        # "greedy": the paper's; "sampled": the same, the list drawn token by token from z^(1 / temperature); "group":
        # several drawn lists, each judged by the others.
        "rollout": "greedy",
        "samples": 6,  # lists of a group
        "temperature": 0.5,
        # What an organic click is worth to EGA from here on, relative to the market constant: the policy gradient finds
        # more clicks than a cascade does, and below 1 it finds more welfare instead.
        "exchange_rate": 1.0,
        # Share of the virtual value in what EGA's list score counts per click, likewise: revenue to first order for
        # welfare to second.
        "virtual_share": 0.0,
        "trainable": r"generator/(poi_decoder|poi_head|item_prior|list_prior)",
      },
      "payment": {
        "steps": 2000,
        "batch_size": 64,
        "learning_rate": 2.4e-3,
        "requests": 240,  # whose counterfactual tables are computed once
        "ads": 6,
        "nodes": 41,  # fixed own bids of a table
        "values": 24,  # own values drawn for a table, beside them
        "multiplier": 100.0,  # lambda_0
        "multiplier_step": 0.1,  # rho of Eq. 35, applied every step
        "penalty": 1.0,  # rho of Eq. 33
      },
      "lists": {
        "num_lists": 64,
        "alpha": 3.0,  # of 0.2 .. 3, the paper's sweep; its default is 1.2
        "beta": 0.2,  # of 0.2 .. 20, the paper's sweep; its default is 2
        "token_bid": "expected",  # or the paper's "max"
        "bid_cell": 2.0,  # proposals see bids to the nearest power of it; 1 as in the paper
      },
      "systems": SYSTEMS[:-1],  # rows of the comparison; the other: MCA+R with more search
      "bid_free_policy": True,  # a policy of its own for lists that ignore bids; False: they come from EGA's generator
      "judge": True,  # fit a second reward model on held-back logs, for choices on validation
      "sweep_prefixes": 1536,  # distinct prefixes that a sweep over bid profiles may hold
      "evaluation": {
        "requests": 2000,  # of test: welfare, clicks
        "priced_requests": 400,  # of test: revenue
        "audited_requests": 200,  # of those: incentives
        "frontier_requests": 96,  # of test, at each of a few ad loads
        "unshown": 4,  # random unshown ads per request, audited or deviating
        "refinements": 4,  # bisections of each audited curve
        "validation_requests": 400,
        "equilibrium_requests": 64,  # of validation
        "equilibrium_loads": ("equal",),  # slot price at shaded bids: set anew; "fixed": that of truthful ones
        "load_requests": 480,  # of validation, on which ad load is balanced
        "fine_load_requests": 0,  # of validation, on which it is balanced in the end, if more
        "nodes": 41,
        "chunk": 8,  # requests decoded at once
      },
    }
  )
