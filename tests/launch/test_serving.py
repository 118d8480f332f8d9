"""launch.generate and launch.evaluate on a tiny run: what they write, and what they refuse."""

import json
import re
import subprocess
import sys
import types

import numpy as np
import pytest

import tiny_run
from ega_jax.auction.bidding import lognormal_virtual_bid
from ega_jax.baselines.cascade import Cascade
from ega_jax.data.pipeline import read_catalog
from ega_jax.data.requests import read_requests
from ega_jax.evaluation import comparison, kept_rows, lineup, over_seeds, report
from ega_jax.evaluation.comparison import evaluate_seed
from ega_jax.stages.defaults import SYSTEMS
from ega_jax.systems import pricing
from launch import evaluate, experiment, finished, generate


def _limits(config, finals, payment="price"):
  return generate.limits_of(config, finals[generate.PAYMENTS[payment][0]]["market"])


def _served(payment="price", size=4):
  workdir, _ = tiny_run.trained()
  config, finals = finished.load_run(workdir, generate.PAYMENTS[payment])
  requests = read_requests(f"{tiny_run.data()}/requests.jsonl", _limits(config, finals, payment))
  return requests, generate.answers(*generate.served(config, finals, payment), requests, size)


@pytest.mark.parametrize("payment", ["price", "vcg_range"])
def test_answers_are_lists_of_the_requests_own_candidates(payment):
  requests, lines = _served(payment)
  assert len(lines) == len(requests.ids) == 9
  lines = json.loads(json.dumps(lines))
  catalog = read_catalog(tiny_run.data())
  with open(f"{tiny_run.data()}/requests.jsonl", encoding="utf-8") as file:
    asked = [json.loads(line) for line in file]
  for one, found in zip(asked, lines, strict=True):
    entries = [one["candidates"][i] for i in found["positions"]]
    assert [entry["poi"] for entry in entries] == found["items"] and len(set(found["items"])) == 4
    assert [entry.get("is_ad", False) for entry in entries] == found["is_ad"]
    assert [int(catalog.creative_poi[creative]) for creative in found["creatives"]] == found["items"]
    bids = np.array([entry.get("bid", 0.0) for entry in entries])
    payments, pctr = np.array(found["payments"]), np.array(found["pctr"])
    assert (0 <= payments).all() and (payments <= bids + 1e-6).all() and ((0 < pctr) & (pctr < 1)).all()
    assert all(0 < z <= 1 + 1e-6 for z in found["z"])
    assert found["expected_payment"] == pytest.approx((payments * pctr).sum())
  assert [found["id"] for found in lines] == list(range(1, 10))


def test_batches_change_no_answer_and_first_price_is_the_bid():
  requests, lines = _served("first_price")
  _, others = _served("first_price", size=3)
  for one, other in zip(lines, others, strict=True):
    assert one["items"] == other["items"] and one["creatives"] == other["creatives"]
    np.testing.assert_allclose(one["pctr"], other["pctr"], rtol=1e-4)
  row = requests.columns["candidates"][0].tolist()
  expected = [float(requests.columns["bid"][0][row.index(poi)]) for poi in lines[0]["items"]]
  np.testing.assert_allclose(lines[0]["payments"], expected)


@pytest.mark.parametrize(("items", "price"), [((-1, -1), 0.5), ((1, 0), np.nan)])
def test_an_answer_without_a_list_or_with_nan_is_none(items, price):
  row = lambda *values: np.array(values)[None, None]
  slate = types.SimpleNamespace(items=row(*items), creatives=row(0, 1), click_probability=row(0.1, 0.2))
  requests = types.SimpleNamespace(ids=["a"], position=np.arange(2)[None])
  batch = {"candidates": np.array([[4, 5]]), "is_ad": np.array([[False, True]])}
  ask = lambda slate, price: generate.answer(requests, 0, batch, 0, slate, np.array([price, 0.0]), np.ones(2))
  with pytest.raises(FloatingPointError, match="request 'a': its numbers lead beyond what float32 holds; no answer"):
    ask(slate, price)
  slate.items = row(1, 0)
  assert ask(slate, 0.5)["items"] == [5, 4]


def test_the_bounds_of_bids_follow_the_markets_scale():
  config = experiment.load(tiny_run.EXPERIMENT, [f"--config.data={tiny_run.data()}"])[1]
  limits = generate.limits_of(config, {"bid_scale": np.float32(2.0), "organic_weight": 1.0, "slot_price": 0.0})
  assert limits.largest_bid == pytest.approx(2e10)  # (1e30)^(1 / alpha) median bids
  low, high = limits.value_mu
  assert low < -15 and (low + high) / 2 == pytest.approx(np.log(2))
  top = pricing.value_nodes(np.array(high), config.value_sigma, 9).max()
  assert top == pytest.approx(limits.largest_bid)


def test_bad_requests_end_with_two_and_write_nothing(tmp_path):
  workdir, _ = tiny_run.trained()
  path, output = tmp_path / "asked.jsonl", tmp_path / "answers.jsonl"
  with open(f"{tiny_run.data()}/requests.jsonl", encoding="utf-8") as file:
    request = json.loads(file.readline())
  request["candidates"][-1] |= {"is_ad": True, "bid": float("nan")}
  path.write_text(json.dumps(request) + "\n")
  arguments = [f"--workdir={workdir}", f"--requests={path}", f"--output={output}"]
  command = [sys.executable, "-m", "launch.generate", *arguments]
  done = subprocess.run(command, capture_output=True, text=True, timeout=120)
  assert done.returncode == 2 and f"{path}, line 1: candidates[" in done.stderr and "bid is NaN" in done.stderr
  assert not output.exists()


def test_evaluation_writes_figures_and_a_report(tmp_path, capsys):
  workdir, _ = tiny_run.trained()
  config, finals = finished.load_run(workdir)
  said, assess = [], lambda **how: evaluate_seed(config, finals, str(tmp_path / "seed"), commit="1", **how)
  figures = assess(only=("popularity", "MCA", "EGA"))
  assert list(figures["systems"]) == ["popularity", "MCA", "EGA"]
  points = figures["systems"]["MCA"]["frontier"]
  assert len(points) == 5 and points[0]["ad_share"] < points[-1]["ad_share"] and points[0]["knob"] > points[-1]["knob"]
  assert len(figures["systems"]["EGA"]["frontier"]) == 5 and not figures["systems"]["popularity"]["frontier"]
  assert assess(say=said.append) == json.loads(json.dumps(figures)) and not said  # nothing left to do
  capsys.readouterr()
  assess(only=("popularity",), say=said.append)
  parts = re.findall("^popularity (.*) took [0-9]+ s$", capsys.readouterr().err, re.MULTILINE)
  assert parts[0] == "balance" and parts[-1] == "pricing"
  assert len(said) == 1 and said[0].startswith("popularity: ") and "(balance " in said[0]
  parts = figures["systems"]["EGA"]["seconds_of"]
  assert list(parts) == ["balance", "frontier", "test", "pricing", "audit", "equilibria"]
  assert figures["systems"]["EGA"]["seconds"] == pytest.approx(sum(parts.values()))
  made_by = {key: figures[key] for key in ("commit", "config", "data", "parameters")}
  assert kept_rows.kept_figures(tmp_path / "seed", made_by)["systems"].keys() == figures["systems"].keys()
  changes = {"commit": "2"}, {"commit": "unknown"}, {"commit": "1+uncommitted"}, {"config": {}}, {"parameters": ""}
  changes += ({"data": ""},)
  for other in changes:
    assert kept_rows.kept_figures(tmp_path / "seed", made_by | other) is None
  stored = json.loads((tmp_path / "seed" / "figures.json").read_text())
  assert stored["systems"].keys() == figures["systems"].keys() and 0 < stored["target_ad_share"] < 1
  results = over_seeds.results([str(tmp_path / "seed")], title="tiny", commit="of the report")
  assert results["commit"] == figures["commit"] and results["seeds"] == [config.seed]
  text = open(report.write(results, str(tmp_path / "out")), encoding="utf-8").read()
  assert all(f"{name}" in text for name in figures["systems"])
  difference = results["systems"]["MCA"]["differences"]["true/rpm_myerson"]["mean"]
  revenue = [results["systems"][name]["figures"]["true/rpm_myerson"][0] for name in ("MCA", "EGA")]
  assert difference == pytest.approx(revenue[0] - revenue[1])
  assert figures["reward"]["beats_truth"] is False
  found = {name: one["parameters"] for name, one in figures["systems"].items()}
  assert found["popularity"] == 0 < found["MCA"] < found["EGA"]
  assert figures["systems"]["EGA"]["milliseconds"] > 0 < figures["systems"]["MCA"]["flops"] and "## Cost" in text
  for key in ("knob", "shading_equal", "residual_gain_equal", "seconds", "parameters", "milliseconds", "flops"):
    assert results["systems"]["EGA"]["figures"][key] == [figures["systems"]["EGA"][key]]
  assert set(results["frontier"]) == {"MCA", "EGA"} and (tmp_path / "out" / "frontier.png").is_file()
  with pytest.raises(ValueError, match="'EGA2' is unknown; allowed: .*EGA"):
    evaluate_seed(config, finals, str(tmp_path / "seed"), only=("EGA2",))


def test_the_cascade_by_egas_objective_sees_its_rate_and_its_bids():
  config, finals = finished.load_run(tiny_run.trained()[0])
  plain, own = (entry.system for entry in lineup.systems(config, finals, only=("MCA+R", "MCA+R-objective")))
  assert own.objective.organic_weight == pytest.approx(0.9 * plain.objective.organic_weight)
  batch = comparison.sample(config.data, "test", 8, 8)
  bids = 3 * batch["bid"][:, None]
  phi = np.asarray(lognormal_virtual_bid(bids, batch["value_mu"][:, None], config.value_sigma))
  mixed = np.where(batch["is_ad"][:, None], 0.9 * bids + 0.1 * phi, 0.0)
  market = {**plain.params["market"], "organic_weight": np.float32(own.objective.organic_weight)}
  same = Cascade("same", plain.ranker, {**plain.params, "market": market}, config.list_length, models=plain.models,
                 num_lists=config.lists.num_lists)  # fmt: skip
  found, expected = own.allocate(batch, bids), same.allocate(batch, mixed)
  np.testing.assert_array_equal(found.items, expected.items)
  assert (found.items != plain.allocate(batch, bids).items).any()


def test_only_what_concerns_an_evaluation_can_be_changed_for_it():
  for argument in ("--config.seed=1", "--config.reward.steps=2"):
    with pytest.raises(ValueError, match="the config is the run's own; allowed: --config.evaluation.KEY"):
      evaluate.main([argument])
  config, finals = finished.load_run(tiny_run.trained()[0])
  with config.unlocked():
    experiment.override(config, "--config.evaluation.equilibrium_loads=('half',)")
  with pytest.raises(ValueError, match="config.evaluation.equilibrium_loads has 'half'; allowed: fixed, equal"):
    evaluate_seed(config, finals, "unused")


def test_changed_settings_reach_the_evaluation(monkeypatch, tmp_path):
  seen = []
  found = {"systems": {"MCA": {}}}
  monkeypatch.setattr(evaluate, "evaluate_seed", lambda config, *args, **how: seen.append(config) or found)
  monkeypatch.setattr(evaluate.over_seeds, "results", lambda *args, **how: 1 / 0)
  values = {"workdir": [tiny_run.trained()[0]], "systems": [], "report_only": False, "output": ""}
  monkeypatch.setattr(evaluate.flags, "FLAGS", types.SimpleNamespace(**values))
  with pytest.raises(ZeroDivisionError):
    evaluate.main(["--config.evaluation.requests=16", "--config.systems=('MCA',)"])
  assert seen[0].evaluation.requests == 16 and tuple(seen[0].systems) == ("MCA",)


def test_a_digest_tells_parameters_apart():
  tree = {"a": np.arange(6.0).reshape(2, 3), "b": np.zeros(4)}
  other = {"a": tree["a"].copy(), "b": tree["b"] + [0, 0, 1e-7, 0]}
  assert comparison.digest(tree) == comparison.digest(dict(tree)) != comparison.digest(other)
  with pytest.raises(TypeError, match="a leaf is no array but .*Finals"):
    comparison.digest(finished.Finals("run", tree, []))  # no pytree
  once, again = (finished.load_run(tiny_run.trained()[0])[1] for _ in range(2))
  assert comparison.digest(once) == comparison.digest(again)


def test_runs_that_are_incomplete_or_changed_are_refused(tmp_path):
  with pytest.raises(ValueError, match=f"--workdir={tmp_path}: no experiment.json"):
    finished.load_run(tmp_path)
  (tmp_path / "experiment.json").write_text(json.dumps({"experiment": str(tiny_run.EXPERIMENT)}))
  config = json.loads((tiny_run.trained()[0] / "config.json").read_text())
  (tmp_path / "config.json").write_text(json.dumps(config))
  with pytest.raises(ValueError, match="stages tokenizer, pretrain.* are not complete"):
    finished.load_run(tmp_path)
  with pytest.raises(ValueError, match="no stage 'nothing'"):
    finished.load_run(tmp_path, ("nothing",))
  command = [sys.executable, "-m", "launch.evaluate", f"--workdir={tmp_path}", f"--output={tmp_path / 'out.json'}"]
  done = subprocess.run(command, capture_output=True, text=True, timeout=120)
  assert done.returncode == 2 and "are not complete" in done.stderr
  (tmp_path / "config.json").write_text(json.dumps(config | {"colour": 1}))
  with pytest.raises(ValueError, match="'colour' of the run is unknown to"):
    finished.load_run(tmp_path)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda one: one, "two have the same seed"),
    (lambda one: one["config"].update(seed=1), None),
    (lambda one: one["config"].update(seed=1, value_sigma=0.7), "b: config.value_sigma is 0.7, that of .*a is 0.6"),
    (lambda one: one.update(data="other", config={"seed": 1}), "b: config.value_sigma is 'absent'"),
    (lambda one: one["config"].update(seed=1) or one.update(data="y"), "b: data is 'y', that of .*a is 'x'"),
    (lambda one: one["config"].update(seed=1) or one.update(commit="2"), "b: commit is '2', that of .*a is '1'"),
  ],
)
def test_only_runs_that_differ_in_their_seed_are_averaged(change, message, tmp_path):
  for name in "ab":
    one = {"commit": "1", "data": "x", "config": {"seed": 0, "value_sigma": 0.6}, "systems": {}}
    if name == "b":
      change(one)
    (tmp_path / name).mkdir()
    (tmp_path / name / "figures.json").write_text(json.dumps(one))
  message = message or "EGA is what systems are compared with, and was not evaluated"
  with pytest.raises(ValueError, match=message):
    over_seeds.results([str(tmp_path / name) for name in "ab"])


def _copied(tmp_path):
  for name in ("experiment.json", "config.json"):
    (tmp_path / name).write_text((tiny_run.trained()[0] / name).read_text())
  return tmp_path


def test_a_run_belongs_to_its_prepared_data(tmp_path):
  config, _ = finished.load_run(tiny_run.trained()[0])
  finished.check_data(tmp_path, config)
  finished.check_data(tmp_path, config)  # the same
  kept = json.loads((tmp_path / "data.json").read_text())
  assert kept["seed"] == 0 and "commit" not in kept  # what wrote it does not matter
  (tmp_path / "data.json").write_text(json.dumps(kept | {"seed": 5}))
  with pytest.raises(ValueError, match="data.json: seed is 5 there and 0 now; allowed: .* another workdir"):
    finished.load_run(_copied(tmp_path))


def test_damaged_runs_are_named(tmp_path):
  run = _copied(tmp_path)
  config = json.loads((run / "config.json").read_text())
  (run / "config.json").write_text(json.dumps({key: value for key, value in config.items() if key != "value_sigma"}))
  with pytest.raises(ValueError, match="config.json has no 'value_sigma': .* was changed since"):
    finished.load_run(run)
  (run / "config.json").write_text('{"seed": 0')
  with pytest.raises(ValueError, match="config.json: not JSON, or truncated"):
    finished.load_run(run)
  (run / "experiment.json").write_text('{"experiment": "/moved/config.py"}')
  with pytest.raises(ValueError, match="experiment.json|config.json"):
    finished.load_run(run)
  (run / "config.json").write_text("{}")
  with pytest.raises(ValueError, match="experiment.json: /moved/config.py is not there; allowed: its present place"):
    finished.load_run(run)


def test_a_stage_that_was_not_asked_for_is_told_from_one_that_is_not_complete():
  finals = finished.Finals("run", {"reward": 1}, ["reward", "policy"])
  with pytest.raises(ValueError, match="stage policy is not complete"):
    finals["policy"]
  with pytest.raises(ValueError, match="its experiment has no stage judge, as configured; has: reward, policy"):
    finals["judge"]


def test_every_row_that_can_be_named_has_a_builder():
  config, finals = finished.load_run(tiny_run.trained()[0])
  assert set(lineup.builders(config, finals, None)) == set(SYSTEMS)
