"""Slow references of the data columns, and small cities on disk."""

import collections
import datetime
import os

import numpy as np

EPOCH = datetime.datetime(1970, 1, 1)
START = datetime.datetime(2020, 3, 2, 8, 0)  # a Monday


def minutes(moment):
  """Returns minutes since 1970-01-01."""
  return int((moment - EPOCH).total_seconds() // 60)


def write_city(directory, seed=0, users=12, pois=40, visits=600, windows=True):
  """Writes a city in the check-in format: POI ids 100, 97, 94 ..., users u0, u1 ..., check-ins in random order."""
  rng = np.random.default_rng(seed)
  ids = 100 + 3 * pois - 3 * np.arange(pois)
  os.makedirs(directory, exist_ok=True)
  categories = [f"category {i % 5}" for i in range(pois)]
  places = 40 + 0.05 * rng.random(pois), -74 + 0.05 * rng.random(pois)
  rows = zip(ids, categories, *places, strict=True)
  _write(directory, "pois.tsv", "poi\tcategory\tlat\tlon", [f"{i}\t{c}\t{a:.6f}\t{o:.6f}" for i, c, a, o in rows])
  favourite = rng.integers(0, pois, (users, 4))
  user = rng.integers(0, users, visits)
  poi = np.where(rng.random(visits) < 0.7, favourite[user, rng.integers(0, 4, visits)], rng.integers(0, pois, visits))
  moment = [START + datetime.timedelta(minutes=int(m)) for m in rng.choice(60 * 24 * 60, visits, replace=False)]
  checkins = [(f"u{u}", m, int(ids[p])) for u, m, p in zip(user, moment, poi, strict=True)]
  lines = [f"{u}\t{m:%Y-%m-%d %H:%M}\t{p}" for u, m, p in checkins]
  _write(directory, "checkins.tsv", "user\tlocal_time\tpoi", lines)
  embedding = np.random.default_rng(seed + 1).standard_normal((5, 8))[np.arange(pois) % 5]
  np.save(os.path.join(directory, "category_embeddings.npy"), embedding.astype(np.float16))
  if windows:
    _write_windows(directory, checkins)
  return checkins


def _write(directory, name, header, lines):
  with open(os.path.join(directory, name), "w", encoding="utf-8") as file:
    file.write("\n".join([header, *lines]) + "\n")


def _write_windows(directory, checkins):
  """Writes one window per user and split: the visits before the share .6, .85 and 1 of the user's record."""
  visits = collections.defaultdict(list)
  for user, moment, poi in sorted(checkins, key=lambda row: row[1]):
    visits[user].append((moment, poi))
  for name, share in (("train", 0.6), ("val", 0.85), ("test", 1.0)):
    lines = []
    for user, record in sorted(visits.items()):
      *past, (target_time, target) = record[: int(share * len(record))]
      pois, times = [poi for _, poi in past[-20:]], [f"{moment:%Y-%m-%d %H:%M}" for moment, _ in past[-20:]]
      lines.append(f'{user},"{pois}","{times}",{target},{target_time:%Y-%m-%d %H:%M}')
    _write(directory, f"windows_{name}.csv", "Uid,Pids,Times,Target,Target_time", lines)


def history(events, user, time, length):
  """Returns the history of one request as a list of (poi, creative, action, age), oldest first.

  Args:
    events: list of (user, time, action, order, poi, creative).
  """
  past = sorted(event[1:] for event in events if event[0] == user and event[1] < time)
  return [(poi, creative, action, (time - t) / 60) for t, action, _, poi, creative in past[-length:]]


def successors(visits, poi, time, width):
  """Returns [(POI, count)]: what followed `poi` in anyone's `visits` (user, time, poi), in order, before `time`."""
  counts, last = collections.Counter(), {}
  for user, moment, visited in visits:
    if last.get(user) == poi and moment < time:
      counts[visited] += 1
    last[user] = visited
  return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:width]
