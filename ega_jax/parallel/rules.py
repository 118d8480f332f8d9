"""Which mesh axes a logical axis of an array is split over. The only place where the two vocabularies meet."""

BATCH_AXES = ("dcn", "data", "fsdp")

RULES = {
  "batch": BATCH_AXES,  # requests
  "length": None,  # positions of a sequence
  "embed": "fsdp",  # the residual stream's width: ZeRO-3, gathered layer by layer
  "mlp": "tensor",  # a feed-forward layer's hidden width
  "heads": "tensor",  # attention heads
  "kv": None,  # width of a head
  "vocab": "tensor",  # codes of a level
  "layers": None,  # the scanned axis
  "table": ("dcn", "data", "fsdp", "tensor"),  # rows of big embedding tables: over all devices
  "none": None,
}


def flax_rules(rules=None):
  """Returns `rules` as flax.linen.logical_axis_rules takes them; an activation's first axis gets a mesh axis."""
  return tuple((RULES if rules is None else rules).items())
