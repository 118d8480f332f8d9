"""RegretNet in plain PyTorch, as one would write it: the peer of the suite "auction"."""

import torch


class RegretNet(torch.nn.Module):
  """Returns (allocation [..., n, m], payments [..., n]) of bids [..., n, m]; the layers of models/regret_net.py."""

  def __init__(self, bidders, items, hidden, layers):
    super().__init__()
    self.bidders, self.items = bidders, items
    self.allocation = self._mlp(hidden, layers, (bidders + 1) * items)
    self.payment = self._mlp(hidden, layers, bidders)

  def _mlp(self, hidden, layers, features):
    widths, parts = [self.bidders * self.items] + [hidden] * layers, []
    for inside, outside in zip(widths[:-1], widths[1:], strict=True):
      parts += [torch.nn.Linear(inside, outside), torch.nn.Tanh()]
    return torch.nn.Sequential(*parts, torch.nn.Linear(widths[-1], features))

  def forward(self, bids):
    flat = bids.flatten(-2)
    logits = self.allocation(flat).unflatten(-1, (self.bidders + 1, self.items))
    allocation = torch.softmax(logits, dim=-2)[..., :-1, :]
    return allocation, torch.sigmoid(self.payment(flat)) * (allocation * bids).sum(-1)

  def copy(self, params):
    """Takes over the weights of a flax RegretNet, numpy arrays by name."""
    for name in ("allocation", "payment"):
      linear = [part for part in getattr(self, name) if isinstance(part, torch.nn.Linear)]
      names = [f"{name}_{i}" for i in range(len(linear) - 1)] + [f"{name}_out"]
      for part, key in zip(linear, names, strict=True):
        part.weight.data = torch.tensor(params[key]["kernel"].T.copy())
        part.bias.data = torch.tensor(params[key]["bias"])


class Trainer:
  """The steps of stages/additive_auction.py under the rule "lagrangian"."""

  def __init__(self, network, values, misreports, config):
    self.network, self.values, self.misreports, self.config = network, values, misreports, config
    self.multiplier = torch.full((config.num_bidders,), float(config.multiplier))
    self.optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate)

  def step(self, rows):
    """Returns the loss of a step on the profiles `rows`."""
    values, config = self.values[rows], self.config
    found = self._ascend(values, self.misreports[rows])
    self.misreports[rows] = found
    allocation, payments = self.network(values)
    truth = (allocation * values).sum(-1) - payments
    regret = torch.relu(self._misreport_utility(values, found) - truth)
    by_bidder = regret.mean(0)
    loss = -payments.mean() + (self.multiplier * by_bidder + 0.5 * config.penalty * by_bidder**2).mean()
    self.optimizer.zero_grad()
    loss.backward()
    self.optimizer.step()
    self.multiplier = self.multiplier + config.multiplier_step * by_bidder.detach()
    return float(loss.detach())

  def _misreport_utility(self, values, misreports):
    own = torch.eye(self.config.num_bidders, dtype=torch.bool)[..., None]
    bids = torch.where(own, misreports[:, None], values[:, None])
    allocation, payments = self.network(bids)
    mine = torch.diagonal(allocation, dim1=1, dim2=2).transpose(1, 2)
    return (mine * values).sum(-1) - torch.diagonal(payments, dim1=1, dim2=2)

  def _ascend(self, values, starts):
    """Returns the best of the points that Adam visits, the last one included."""
    point = starts.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([point], lr=self.config.misreport_rate, maximize=True)
    best, highest = starts.clone(), torch.full(starts.shape[:-1], -float("inf"))
    for _ in range(self.config.misreport_steps):
      utility = self._misreport_utility(values, point)
      (point.grad,) = torch.autograd.grad(utility.sum(), [point])
      with torch.no_grad():
        best = torch.where((utility > highest)[..., None], point, best)
        highest = torch.maximum(highest, utility)
        optimizer.step()
        point.clamp_(0.0, 1.0)
    with torch.no_grad():
      utility = self._misreport_utility(values, point)
      return torch.where((utility > highest)[..., None], point, best)
