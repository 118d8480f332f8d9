"""launch.choose: choices on validation by the judge and the exploration logs, without the world."""

import json
import types

import numpy as np
import pytest

import tiny_run
from ega_jax.decoding.slate import Objective
from ega_jax.evaluation import comparison, reward_quality, selection
from ega_jax.evaluation.lineup import systems
from ega_jax.evaluation.systems import truthful
from ega_jax.stages.batches import evenly
from launch import choose, finished


def _run(workdir, partial=True):
  """Returns (config, finals) of the tiny run, its reward model doubling as the judge."""
  config, finals = finished.load_run(workdir, partial=partial)
  return config, finals | {"judge": finals["reward"]}


def test_a_score_is_the_judges_sum_over_the_list_and_reads_no_world():
  config, finals = _run(tiny_run.trained()[0])
  columns = evenly(config.data, "validation", (*comparison.COLUMNS, *selection.LOGS), 21, 8)
  assert len(columns["row"]) == 16
  system = next(systems(config, finals, only=("MCA",))).system
  judge = reward_quality.evaluator(config, finals["judge"])
  found = selection.judged(system, columns, judge, Objective(3.0), sigma=0.6, chunk=8)
  assert not [name for name in found["totals"] if name.startswith("true/")]
  expected = []
  for start in (0, 8):
    batch = {name: column[start : start + 8] for name, column in columns.items()}
    slate = system.allocate(batch, truthful(batch))
    clicks = np.asarray(judge(batch, slate)["poi"])[:, 0]
    for row, items in enumerate(np.asarray(slate.items)[:, 0]):
      worth = [batch["bid"][row, i] if batch["is_ad"][row, i] else 3.0 for i in items]
      expected.append(np.dot(worth, clicks[row]))
  np.testing.assert_allclose(found["totals"]["score"], expected, rtol=1e-5)


def test_the_best_leads_and_what_is_not_told_apart_is_seen():
  rng = np.random.default_rng(0)
  users = np.arange(400) // 2

  def option(gain, noise):
    names = ("requests", "slots", "impressions", "ad_impressions", "organic_impressions")
    ones = {name: np.ones(400) for name in names}
    score = gain + noise * rng.normal(size=400)
    by_model = {f"model/{name}": np.ones(400) for name in ("welfare", "clicks", "organic_clicks", "virtual_surplus")}
    estimate = selection.snips.Estimate(gain, 0.01, 10, 9.0)
    return {"totals": ones | by_model | {"score": score, "user": users}, "snips": estimate, "clicks": estimate}

  found = selection.choice({"low": option(1.0, 0.1), "best": option(2.0, 0.1), "near": option(1.99, 1.0)})
  assert found["best"] == found["snips_best"] == "best" and found["agrees"] is True
  lead = {name: one["lead"] for name, one in found["options"].items()}
  assert lead["best"] == [0.0, 0.0, 0.0] and lead["low"][2] < -0.9 and lead["near"][1] < 0 < lead["near"][2]


def test_a_policy_can_be_judged_before_payments_are_trained():
  config, finals = _run(tiny_run.trained()[0])
  without = finished.Finals("run", {name: finals[name] for name in ("reward", "policy")}, ["payment"])
  assert next(systems(config, without, only=("EGA",), priced=False)).system.name == "EGA"
  with pytest.raises(ValueError, match="--workdir=run: stage payment is not complete"):
    next(systems(config, without, only=("EGA",)))


def _choose(monkeypatch, tmp_path, **changes):
  values = {"workdir": [str(tiny_run.trained()[0])], "output": str(tmp_path / "choice.json"), "judge": ""}
  values |= {"systems": ["popularity", "MCA"], "requests": 16} | changes
  monkeypatch.setattr(choose.flags, "FLAGS", types.SimpleNamespace(**values))
  return choose.main([])


def test_the_binary_compares_systems_at_equal_ad_load(monkeypatch, tmp_path, capsys):
  monkeypatch.setattr(choose, "load_run", _run)
  assert _choose(monkeypatch, tmp_path) == 0
  written = json.loads((tmp_path / "choice.json").read_text())
  assert set(written["options"]) == {"popularity", "MCA"} and written["requests"] == 16
  scores = {name: one["score"] for name, one in written["options"].items()}
  assert written["best"] == max(scores, key=scores.get) and written["options"][written["best"]]["lead"] == [0, 0, 0]
  for one in written["options"].values():
    assert one["ad_share"] == pytest.approx(written["target_ad_share"], abs=0.02)
  text = capsys.readouterr().out
  assert f"best by the judge: {written['best']}" in text and "| popularity |" in text


def test_what_it_cannot_compare_is_refused(monkeypatch, tmp_path):
  with pytest.raises(ValueError, match="allowed: none"):
    choose.main(["--config.seed=1"])
  with pytest.raises(ValueError, match="its experiment has no stage judge, as configured; has: tokenizer, "):
    _choose(monkeypatch, tmp_path)
  other = str(tmp_path / "other")

  def run(workdir, partial):
    config, finals = _run(tiny_run.trained()[0])
    with config.unlocked():
      config.data = "elsewhere" if workdir == other else config.data
    return config, finals

  monkeypatch.setattr(choose, "load_run", run)
  with pytest.raises(ValueError, match="system 'oracle' sees the truth"):
    _choose(monkeypatch, tmp_path, systems=["MCA", "oracle"])
  with pytest.raises(ValueError, match="is of elsewhere; allowed: runs of"):
    _choose(monkeypatch, tmp_path, workdir=[str(tiny_run.trained()[0]), other], systems=["popularity"])
