"""`metriclog demo`: the training is real and seeded, its divergence too, and what it shows comes from the store."""

from __future__ import annotations

import importlib.util
import io
import math
import socket
import struct
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from rich.console import Console

from metriclog import reader
from metriclog.demo import picture, run_demo, terminal
from metriclog.demo.readback import LOSS, Curve, RunRecord, read_runs
from metriclog.demo.report import differing_params, nonfinite_sentences
from metriclog.demo.training import RECIPES, Digits, Network, Recipe, Step, cross_entropy, load_split, softmax, train
from metriclog.demo.trial import EXPERIMENT, PATIENCE_STEPS
from metriclog.errors import MissingPackageError, SettingsError, UsageError
from metriclog.settings import Settings
from tests.servers.api import Influx

STEPS = 120
DIVERGING = RECIPES[-1]


class Shown:
    """One demo that ran without a server: its exit code, its words and its journal."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings.load(dir=folder, url=None, mode="offline")
        self.code, self.text = show(self.settings)
        self.runs = reader.open_journal(folder).runs(EXPERIMENT)
        self.records = read_runs(reader.open_journal(folder), EXPERIMENT, list(self.runs["run"]))
        self.picture = folder / "demo-curves.png"


def show(settings: Settings, *, steps: int = STEPS, is_terminal: bool = False) -> tuple[int, str]:
    """The exit code and the text of a demo."""
    written = io.StringIO()
    console = Console(file=written, width=100, force_terminal=is_terminal, color_system=None)
    code = run_demo(settings=settings, steps=steps, console=console)
    return code, written.getvalue()


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    return Shown(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def digits() -> Digits:
    return load_split(0)


def steps_of(recipe: Recipe, digits: Digits, *, seed: int = 0, steps: int = STEPS) -> list[Step]:
    return list(train(recipe, digits, steps=steps, seed=seed))


def losses(taken: list[Step]) -> list[float]:
    return [step.metrics[LOSS] for step in taken]


def curve(*values: float) -> Curve:
    return Curve(np.arange(1, len(values) + 1, dtype=np.int64), np.array(values, dtype=np.float64))


def test_four_runs_are_in_the_journal_and_the_one_that_diverged_failed(shown: Shown) -> None:
    assert shown.code == 0
    assert list(shown.runs["status"]) == ["finished", "finished", "finished", "failed"]
    assert list(shown.runs["steps"])[:3] == [STEPS] * 3
    assert [record.run.split("-")[0] for record in shown.records] == ["softmax", "mlp", "overfit", "high"]


def test_every_step_has_its_metrics_and_validation_comes_less_often(shown: Shown) -> None:
    record = shown.records[0]
    for metric in ("train/loss", "train/accuracy", "lr", "grad_norm"):
        assert record.curve(metric).steps.tolist() == list(range(1, STEPS + 1))
    for metric in ("eval/loss", "eval/accuracy"):
        assert record.curve(metric).steps.tolist() == list(range(20, STEPS + 1, 20))


def test_the_data_set_is_named_with_a_digest_of_its_bytes(shown: Shown, digits: Digits) -> None:
    frame = reader.open_journal(shown.settings.dir).curve(shown.records[0].run, LOSS)
    assert set(frame["dataset"]) == {f"digits@{digits.digest}"}
    assert load_split(1).digest == digits.digest


def test_nan_is_logged_for_some_steps_before_the_diverged_run_is_given_up(shown: Shown) -> None:
    loss = shown.records[-1].curve(LOSS)
    assert np.isnan(loss.values[-PATIENCE_STEPS:]).all()
    assert not np.isnan(loss.values[:-PATIENCE_STEPS]).any()
    assert all(np.isfinite(record.curve(LOSS).values).all() for record in shown.records[:-1])


def test_the_table_compares_what_was_read_back(shown: Shown) -> None:
    for record in shown.records:
        assert record.run in shown.text
        assert f"{record.curve('eval/accuracy').last:.4g}" in shown.text
    for row in ("status", "hidden", "lr", "train_examples", "train/loss final", "eval/loss best"):
        assert f"\n{row} " in shown.text
    assert "batch_size" not in shown.text, "the same in all runs"


def test_nan_is_said_plainly(shown: Shown) -> None:
    diverged = shown.records[-1]
    first = diverged.curve(LOSS).steps[-PATIENCE_STEPS]
    assert f"NaN from step {first} ({PATIENCE_STEPS} values)" in shown.text
    assert math.isnan(diverged.curve(LOSS).last)
    assert " NaN " in shown.text


def test_it_counts_what_was_logged_against_what_was_read_back(shown: Shown) -> None:
    assert f"{sum(record.points for record in shown.records):,} values logged, all read back." in shown.text


def test_it_says_where_the_picture_is_and_what_to_type_next(shown: Shown) -> None:
    assert str(shown.picture) in shown.text
    assert "docker compose up -d" in shown.text
    assert "sync --url http://127.0.0.1:8086" in shown.text


def test_the_picture_is_a_png_that_shows_four_curves(shown: Shown) -> None:
    data = shown.picture.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", data[16:24]) == (1600, 960)
    pixels = (imread(shown.picture)[:, :, :3] * 255).round().astype(int)
    for colour in picture.COLOURS[:4]:
        wanted = [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
        assert (pixels == wanted).all(axis=2).sum() > 1000, colour


def test_a_picture_of_short_runs_without_any_number_can_be_drawn(tmp_path: Path) -> None:
    records = [
        RunRecord("none", "running", 0, {}, {}),
        RunRecord("one", "finished", 1, {}, {LOSS: curve(0.5)}),
        RunRecord("nan", "failed", 2, {}, {LOSS: curve(math.nan, math.inf)}),
    ]
    picture.draw(tmp_path / "new" / "curves.png", "short", records)
    assert (tmp_path / "new" / "curves.png").stat().st_size > 10_000


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(digits: Digits) -> None:
    recipe = RECIPES[1]
    assert losses(steps_of(recipe, digits)) == losses(steps_of(recipe, digits))
    assert losses(steps_of(recipe, digits)) != losses(steps_of(recipe, digits, seed=1))


def test_no_picture_is_in_both_splits(digits: Digits) -> None:
    assert len(digits.train_x) + len(digits.eval_x) == 1797
    together = np.concatenate([digits.train_x, digits.eval_x])
    assert len(np.unique(together, axis=0)) == 1797


@pytest.mark.parametrize("seed", range(4))
def test_the_divergence_is_one_of_numbers(digits: Digits, seed: int) -> None:
    loss = losses(steps_of(DIVERGING, digits, seed=seed))
    first = next(number for number, value in enumerate(loss) if math.isnan(value))
    assert first > 10
    assert np.isfinite(loss[: first // 2]).all()
    assert min(loss[:first]) < 0.6 * loss[0], "it learned first"
    assert max(loss[first - 10 : first]) > 2 * min(loss[:first]), "then the loss went up"
    assert np.isnan(loss[first:]).all()


def test_the_same_network_with_a_smaller_learning_rate_does_not_diverge(digits: Digits) -> None:
    calm = Recipe("calm", hidden=DIVERGING.hidden, peak_lr=0.05)
    assert np.isfinite(losses(steps_of(calm, digits))).all()


def test_few_examples_are_learned_by_heart(digits: Digits) -> None:
    last = steps_of(RECIPES[2], digits, steps=600)[-1].metrics
    assert last["train/accuracy"] == 1.0
    assert last["eval/loss"] > 5 * last["train/loss"]


def test_a_step_goes_down_the_true_slope() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(6, 5)).astype(np.float32), rng.integers(0, 4, 6)
    lr, sizes = 1e-3, [5, 7, 4]
    network = Network(sizes, np.random.default_rng(0))
    before = network.score(x, y)[0]
    norm = network.step(x, y, lr, 0.0)["grad_norm"]
    # To first order a step of plain SGD lowers the loss by lr times the squared norm of the gradient.
    assert before - network.score(x, y)[0] == pytest.approx(lr * norm**2, rel=0.05)


def test_softmax_and_cross_entropy_are_the_textbook_ones_with_the_overflow() -> None:
    shares = softmax(np.array([[0.0, math.log(3)]], dtype=np.float32))
    assert shares.tolist() == [[0.25, 0.75]]
    assert cross_entropy(shares, np.array([1]))[0] == pytest.approx(math.log(4 / 3))
    with np.errstate(all="ignore"):
        assert np.isnan(softmax(np.array([[100.0, 0.0]], dtype=np.float32))[0, 0])


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((0.5, 0.25), ""),
        ((0.5, math.nan), "NaN from step 2 (1 value)"),
        ((0.5, math.inf, math.nan, math.nan), "+Inf from step 2 (1 value), NaN from step 3 (2 values)"),
        ((-math.inf, 1.0), "-Inf from step 1 (1 value)"),
    ],
)
def test_values_that_are_no_numbers_are_told_by_kind_step_and_count(values: tuple[float, ...], text: str) -> None:
    assert curve(*values).nonfinite_text() == text


def test_the_best_value_is_a_finite_one_with_its_step() -> None:
    assert curve(math.nan, 0.5, 0.25, math.inf).best(highest=False) == (0.25, 3)
    assert curve(math.nan, 0.5, 0.25, math.inf).best(highest=True) == (0.5, 2)
    assert curve(math.nan).best(highest=True) is None


def test_the_sentence_about_the_loss_names_its_last_number() -> None:
    record = RunRecord("mlp-1", "failed", 3, {}, {LOSS: curve(2.5, 7.25, math.nan)})
    assert nonfinite_sentences([record]) == [
        "mlp-1: train/loss is NaN from step 3 (1 value); its last number was 7.25 at step 2"
    ]


def test_only_parameters_that_differ_are_compared() -> None:
    records = [RunRecord("a", "", 0, {"lr": 0.1, "seed": 0.0}, {}), RunRecord("b", "", 0, {"lr": 1.0, "seed": 0.0}, {})]
    assert differing_params(records) == ["lr"]


def test_a_terminal_shows_bars_and_draws_the_curves(tmp_path: Path) -> None:
    code, text = show(Settings.load(dir=tmp_path, url=None, mode="offline"), is_terminal=True)
    assert code == 0
    assert "train/loss by step (log)" in text
    assert "eval/accuracy by step" in text
    assert any("⠁" <= char <= "⣿" for char in text), "braille dots"
    assert "NaN or infinity from there" in text


def test_a_chart_fits_its_width_and_nothing_finite_is_no_chart(shown: Shown) -> None:
    drawn = terminal.chart(LOSS, shown.records, width=72, logarithmic=True)
    plain = [Console(file=io.StringIO()).render_str(line).plain for line in drawn.splitlines()]
    assert len(plain) == terminal.HEIGHT_ROWS
    assert terminal.chart("no/such", shown.records, width=72, logarithmic=True) == ""


def test_too_few_steps_to_diverge_is_said_and_no_failure(tmp_path: Path) -> None:
    code, text = show(Settings.load(dir=tmp_path, url=None, mode="offline"), steps=5)
    assert code == 0
    assert "No loss became NaN" in text


def test_a_missing_package_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(
        "metriclog.demo.find_spec", lambda name: None if name == "sklearn" else importlib.util.find_spec(name)
    )
    with pytest.raises(MissingPackageError, match=r'needs scikit-learn: pip install "metriclog\[demo\]"'):
        show(Settings.load(dir=tmp_path, url=None))


def test_what_cannot_work_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="steps must be 1 or more"):
        show(Settings.load(dir=tmp_path, url=None, mode="offline"), steps=0)
    with pytest.raises(UsageError, match="disabled"):
        show(Settings.load(dir=tmp_path, url=None, mode="disabled"))
    with pytest.raises(SettingsError, match="METRICLOG_TOKEN"):
        show(Settings.load(dir=tmp_path, url="http://127.0.0.1:1"))
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_away_costs_nothing_but_the_shipping(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: every connection is refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        code, text = show(Settings.load(dir=tmp_path, url=url, token="t", exit_timeout_s=0.1))
    assert code == 1
    assert f"{url}: 0 points delivered" in text
    assert "values logged, all read back." in text, "from the journal"
    assert f"sync --url {url}" in text
    assert "wait in" in caplog.text, "and the log says so"


@pytest.mark.live
def test_with_a_server_every_point_is_delivered_and_read_back_from_it(tmp_path: Path, influx: Influx) -> None:
    settings = Settings.load(
        dir=tmp_path, url=influx.url, token=influx.token, org=influx.org, bucket=influx.bucket, mode="online"
    )
    code, text = show(settings)
    assert code == 0, text
    assert " 0 pending." in text
    assert "values logged, all read back." in text
    assert text.count("&var-run=") == len(RECIPES)
    stored = {
        (row["run"], row["metric"]): row
        for row in influx.rows('SELECT count(*) FROM "metrics" GROUP BY "run", "metric"')
    }
    for record in read_runs(reader.open_journal(tmp_path), EXPERIMENT, sorted({run for run, _ in stored})):
        for metric, kept in record.curves.items():
            row = stored[record.run, metric]
            assert row["count_step"] == len(kept.values)
            assert (row.get("count_value") or 0) == len(kept.finite.values)
            assert (row.get("count_nonfinite") or 0) == kept.nonfinite_count
