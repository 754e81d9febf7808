"""The demo: its data, its pipeline, its table, what it checks, and all of it."""

from __future__ import annotations

import dataclasses
import importlib
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr

from daskcache.demo import checks, data, picture, pipeline, runner
from daskcache.demo.acts import Job, Outcome
from daskcache.demo.counting import count_calls, read_counts
from daskcache.demo.table import Row, format_head, format_row
from daskcache.errors import InvalidInputError, MissingExtraError, StoreFullError

OPTIONS = {"baseline": ("1961", "1990"), "period": 10, "resamples": 20, "trend_since": "2000"}


@pytest.fixture(scope="module")
def samples():
    pytest.importorskip("iris_sample_data")
    pytest.importorskip("netCDF4")
    return data.find_samples()


@pytest.fixture(scope="module")
def results(samples):
    """The pipeline's results on A1B, lazy, as plain xarray gives them."""
    found = {}

    def keep(name, result):
        return found.setdefault(name, result)

    pipeline.run(pipeline.open_scenario(str(samples.scenarios["a1b"])), keep, **OPTIONS)
    return found


class TestData:
    def test_a_missing_package_is_named_with_its_extra(self, monkeypatch):
        find = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "flox" else find(name))
        with pytest.raises(MissingExtraError, match=r"flox.*'demo'.*daskcache\[demo\]"):
            data.require_extra()

    def test_missing_samples_are_named_with_their_extra(self, monkeypatch):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(MissingExtraError, match=r"iris-sample-data.*daskcache\[demo\]"):
            data.find_samples()

    def test_samples_that_are_not_whole_say_so(self, monkeypatch, tmp_path):
        (tmp_path / "iris_sample_data").mkdir()
        (tmp_path / "iris_sample_data" / "__init__.py").touch()
        monkeypatch.setattr(sys, "path", [str(tmp_path)])
        monkeypatch.delitem(sys.modules, "iris_sample_data", raising=False)
        with pytest.raises(MissingExtraError, match=r"lacks A1B_north_america\.nc"):
            data.find_samples()

    @pytest.mark.parametrize("size", ["1MB", "5MB", "64MB", "2GB", "50GB"])
    def test_a_size_is_met(self, size):
        planned = data.plan_generated(size)
        asked = dask.utils.parse_bytes(size)
        assert 0.9 * asked < planned.size_bytes < 1.1 * asked
        assert planned.steps % planned.period == 0
        assert planned.size_bytes / planned.steps * planned.period < 70e6

    @pytest.mark.parametrize("size", ["", "much", "-3GB", "10kB", "0"])
    def test_nonsense_is_refused(self, size):
        with pytest.raises(InvalidInputError, match="size"):
            data.plan_generated(size)

    def test_what_does_not_fit_is_refused(self, tmp_path):
        with pytest.raises(StoreFullError, match="smaller --size"):
            data.plan_generated("900PB").check_room(tmp_path)

    def test_growth_leaves_what_was_there(self, tmp_path):
        generated = data.Generated(steps=180, rows=4)
        path = tmp_path / "source.zarr"
        generated.write(path, 0, 180)
        with xr.open_zarr(path, consolidated=False) as before:
            before.load()
        generated.write(path, 180, 60)
        with xr.open_zarr(path, consolidated=False) as after:
            assert after.temperature.chunks[0] == (60, 60, 60, 60)
            xr.testing.assert_identical(after.isel(time=slice(180)).load(), before)
            assert (np.diff(after.time) == np.timedelta64(1, "D")).all()
            assert after.temperature.isel(time=-1).std() > 1

    def test_days_are_those_of_four_years(self, tmp_path):
        daily = pipeline.open_daily([str(path) for path in data.write_daily(tmp_path)])
        assert daily.chunks[0] == (365, 365, 365, 366)
        assert 200 < float(daily.min()) < float(daily.max()) < 330


class TestPipeline:
    def test_blocks_are_decades(self, results):
        assert results["anomaly"].chunks == ((10,) * 24, (37,), (49,))
        assert results["bounds"].chunks == ((1,) * 24, (37,), (49,), (2,))

    def test_the_baseline_has_no_anomaly(self, results):
        baseline = results["anomaly"].sel(time=slice(*OPTIONS["baseline"])).mean("time")
        np.testing.assert_allclose(baseline, 0, atol=1e-3)

    def test_regions_are_weighted_by_area(self, results):
        anomaly = results["anomaly"].load()
        expected = anomaly.weighted(np.cos(np.deg2rad(anomaly.latitude))).mean(["latitude", "longitude"])
        np.testing.assert_allclose(
            results["warming"]["steps"].sel(region="all"), expected, rtol=1e-4, atol=1e-6
        )

    def test_a_trend_is_the_least_squares_line(self, results):
        steps = results["warming"]["steps"].sel(region="all", time=slice("2000", None)).load()
        slope, start = np.polyfit(pipeline._years_since_start(steps["time"]), steps, 1)
        trends = results["trends"].sel(region="all")
        np.testing.assert_allclose([trends["slope"] / 100, trends["start"]], [slope, start])

    def test_bounds_hold_the_mean(self):
        decade = np.random.default_rng(0).standard_normal((1, 3, 4, 10))
        low, high = np.moveaxis(pipeline.bootstrap(decade, resamples=500), -1, 0)
        assert (low < decade.mean(axis=-1)).all()
        assert (decade.mean(axis=-1) < high).all()
        np.testing.assert_allclose(high - low, 2 * 1.645 * decade.std(axis=-1) / np.sqrt(10), rtol=0.25)

    def test_fronts_have_no_seams_between_blocks(self, samples):
        sst = pipeline.open_ocean([str(path) for path in samples.months])
        assert sst.chunks == ((1, 1, 1), pipeline.OCEAN_BANDS, (360,))
        assert [time.month for time in sst.time.values] == [1, 2, 3]
        fronts = pipeline.make_fronts(sst).values
        wrapped = np.pad(sst.values, ((0, 0), (0, 0), (1, 1)), mode="wrap")
        np.testing.assert_array_equal(fronts, pipeline.steepness(wrapped)[:, :, 1:-1])

    @pytest.mark.filterwarnings("ignore:The 'generic' unit:DeprecationWarning")  # flox, when it is imported
    def test_leap_years_give_irregular_blocks(self, tmp_path):
        found = {}
        daily = pipeline.open_daily([str(path) for path in data.write_daily(tmp_path)])
        pipeline.run_daily(daily, lambda name, result: found.setdefault(name, result))
        assert len(set(found["daily/anomaly"].chunks[0])) > 2
        assert found["daily/climatology"].sizes["dayofyear"] == 366

    def test_it_knows_nothing_of_the_cache(self):
        code = "import sys; sys.modules['daskcache'] = None; import pipeline; print(len(pipeline.PRODUCERS))"
        where = Path(pipeline.__file__).parent
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=where, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == "4"

    def test_the_helper_can_be_edited(self):
        text = Path(pipeline.__file__).read_text(encoding="utf-8")
        assert text.count(runner._HELPER) == 1
        scope = {"np": np}
        edited = f"def weights(latitude):\n    {runner._EDITED_HELPER}"
        exec(edited, scope)
        latitude = np.linspace(15, 60, 37)
        weights = scope["weights"](latitude) / pipeline.area_weights(latitude)
        np.testing.assert_allclose(weights, weights[0])


def double(value):
    return 2 * value


class TestCounting:
    def test_calls_are_seen_and_code_is_untouched(self, tmp_path):
        code = double.__code__.co_code
        count_calls([double], tmp_path / "calls")
        assert [double(2), double(3)] == [4, 6]
        assert read_counts(tmp_path / "calls") == {"double": 2}
        assert double.__code__.co_code == code

    def test_threads_and_processes_count(self, tmp_path):
        path = tmp_path / "calls"
        count_calls([double], path)
        with dask.config.set(scheduler="threads"):
            dask.compute(*[dask.delayed(double)(number) for number in range(5)])
        start = partial(count_calls, [double], path)
        with ProcessPoolExecutor(2, mp_context=get_context("spawn"), initializer=start) as pool:
            assert list(pool.map(double, range(7))) == [0, 2, 4, 6, 8, 10, 12]
        assert read_counts(path) == {"double": 12}

    def test_a_builtin_is_refused(self, tmp_path):
        with pytest.raises(InvalidInputError, match="written in Python"):
            count_calls([len], tmp_path / "calls")

    def test_no_file_is_no_call(self, tmp_path):
        assert not read_counts(tmp_path / "nothing")


class TestTable:
    def test_lines_are_of_one_width(self):
        rows = [make_row("anomaly", computed=123, stored_bytes=2 * 10**9, seconds=123.4)]
        lines = [format_head("act"), format_row("3 one more month of the ocean", rows, 1.0)]
        assert {len(line) for line in lines} == {len(lines[0])}
        assert len(lines[0]) <= 100

    def test_rows_are_summed(self):
        rows = [make_row("a", computed=1, seconds=1.0), make_row("b", computed=2, seconds=2.0)]
        assert format_row("both", rows, 30.0).split() == [
            "both",
            "48",
            "3",
            "0",
            "0",
            "0",
            "0.00",
            "3.00",
            "0.10",
        ]


def make_row(step, namespace="a1b", **members):
    base = Row(namespace, step, f"{namespace} {step}", 24, 0, 0, 0, 0, 0, 0.1)
    return dataclasses.replace(base, **members)


STEPS = {"anomaly": 24, "bounds": 24, "warming": 48, "trends": 2, "ocean/fronts": 6}
CALLS = {"bootstrap": 48, "region_means": 96, "fit_line": 2, "steepness": 6}
COLD = {(namespace, step): size for namespace in ("a1b", "e1") for step, size in STEPS.items()}
COLD["e1", "ocean/fronts"] = 0


def make_act(computed, calls, *, months=2, edition=0):
    """An act in which so many blocks of each step are computed, of so many months and an edition of the helper."""
    rows = []
    for namespace in ("a1b", "e1"):
        for step, size in STEPS.items():
            number = computed.get((namespace, step), 0)
            version = f"{step} {edition}" if step in ("warming", "trends") else step
            if step == "ocean/fronts":
                size, version = 3 * months, f"{step} {months}"
            members = {"blocks": size, "computed": number, "stored": number, "version": version}
            rows.append(make_row(step, namespace, **members))
    return Outcome(tuple(rows), calls, 10 * len(calls), 10**8, 1.0)


@pytest.fixture
def acts():
    """Four acts that keep every promise."""
    edited = {key: number for key, number in COLD.items() if key[1] in ("warming", "trends")}
    return {
        "cold": make_act(COLD, CALLS),
        "again": make_act({}, {}),
        "grown": make_act({("a1b", "ocean/fronts"): 3}, {"steepness": 3}, months=3),
        "edited": make_act(edited, {"region_means": 96, "fit_line": 2}, months=3, edition=1),
    }


def find_broken(acts):
    return [str(check) for check in checks.check_acts(list(acts.values())) if not check.is_kept]


class TestChecks:
    def test_good_acts_keep_all_promises(self, acts):
        assert find_broken(acts) == []

    @pytest.mark.parametrize(
        ("act", "changes", "broken"),
        [
            ("cold", {"calls": {}}, "costly step"),
            ("again", {"calls": {"bootstrap": 1}}, "none of the pipeline's functions"),
            ("again", {"tasks": 1}, "no task"),
            ("grown", {"calls": {"steepness": 3, "bootstrap": 1}}, "called for them alone"),
            ("grown", {"calls": {}}, "called for them alone"),
            ("edited", {"calls": {"region_means": 96, "fit_line": 2, "bootstrap": 1}}, "costly step"),
            ("edited", {"calls": {"region_means": 95, "fit_line": 2}}, "over a region"),
            ("edited", {"calls": {"region_means": 96}}, "every line"),
        ],
    )
    def test_a_call_too_many_or_too_few_is_noticed(self, acts, act, changes, broken):
        acts[act] = dataclasses.replace(acts[act], **changes)
        assert any(broken in line and act in line for line in find_broken(acts))

    @pytest.mark.parametrize("field", ["computed", "stored"])
    @pytest.mark.parametrize("act", ["cold", "again"])
    def test_a_block_too_many_is_noticed(self, acts, act, field):
        self._change_first_row(acts, act, field, 25)
        assert any(act in line for line in find_broken(acts))

    @pytest.mark.parametrize("act", ["grown", "edited"])
    def test_a_block_that_did_not_depend_is_noticed(self, acts, act):
        self._change_first_row(acts, act, "computed", 1)
        assert any(act in line for line in find_broken(acts))

    @pytest.mark.parametrize("act", ["again", "edited"])
    def test_a_changed_version_is_noticed(self, acts, act):
        self._change_first_row(acts, act, "version", "another")
        assert any(act in line and "version" in line for line in find_broken(acts))

    def test_memory_is_checked_where_it_tells(self, acts):
        acts = list(acts.values())
        assert checks.check_memory(acts, 10**8) == []
        assert checks.check_memory(acts, 2 * 10**9)[0].is_kept
        greedy = dataclasses.replace(acts[0], peak_bytes=3 * 10**9)
        assert not checks.check_memory([greedy], 2 * 10**9)[0].is_kept

    @staticmethod
    def _change_first_row(acts, act, field, value):
        first, *others = acts[act].rows
        rows = (dataclasses.replace(first, **{field: value}), *others)
        acts[act] = dataclasses.replace(acts[act], rows=rows)


class TestPicture:
    def test_it_is_drawn(self, results, tmp_path):
        pytest.importorskip("matplotlib")
        warming, trends, periods = (results[name].compute() for name in ("warming", "trends", "periods"))
        cooler = warming.copy(deep=True)
        cooler["periods"][15:] /= 2
        scenarios = {
            "a1b": picture.Scenario(warming, trends, periods),
            "e1": picture.Scenario(cooler, trends / 2, periods / 2),
        }
        picture.draw(tmp_path / "warming.png", scenarios, baseline=("1961", "1990"), trend_since="2000")
        assert (tmp_path / "warming.png").read_bytes()[:4] == b"\x89PNG"
        assert picture._count_shared(scenarios.values()) == 15


class TestRunner:
    def test_a_directory_in_use_is_refused(self, tmp_path):
        (tmp_path / "thesis.tex").touch()
        with pytest.raises(InvalidInputError, match="not empty"):
            runner.run(workdir=str(tmp_path))
        assert (tmp_path / "thesis.tex").exists()

    def test_a_store_in_use_is_refused(self, tmp_path):
        (tmp_path / "store").mkdir()
        (tmp_path / "store" / "daskcache.json").write_text("{}")
        with pytest.raises(InvalidInputError, match="store already"):
            runner.run(store=str(tmp_path / "store"), workdir=str(tmp_path / "work"))

    def test_a_job_survives_its_file(self, tmp_path):
        job = Job(2, "/store", str(tmp_path), {"a1b": "/a1b.nc"}, {"period": 10}, True)
        assert Job.read(str(job.write())) == job

    def test_an_outcome_survives_its_file(self, tmp_path):
        outcome = make_act({}, {"bootstrap": 1})
        outcome.write(tmp_path / "act.json")
        assert Outcome.read(tmp_path / "act.json") == outcome

    def test_a_failed_act_fails_the_demo(self, tmp_path, monkeypatch):
        monkeypatch.setattr(runner, "_start", lambda arguments, hash_seed: 3)
        assert runner.run(size="1MB", workdir=str(tmp_path / "work")) == 1
        assert not (tmp_path / "work").exists()

    @pytest.mark.slow
    @pytest.mark.timeout(400)
    def test_generated_data(self, tmp_path, capfd):
        assert runner.run(size="4MB", workdir=str(tmp_path / "work"), keep=True) == 0
        out = capfd.readouterr().out
        assert "BROKEN" not in out
        assert out.count("  ok ") >= 15
        assert (tmp_path / "work" / "store" / "daskcache.json").exists()

    @pytest.mark.slow
    @pytest.mark.timeout(400)
    def test_real_data(self, samples, tmp_path, capfd):
        store = tmp_path / "elsewhere"
        assert runner.run(store=str(store), workdir=str(tmp_path / "work")) == 0
        out = capfd.readouterr().out
        assert "BROKEN" not in out
        assert max(map(len, out.splitlines()[-30:])) <= 100 + len(os.fspath(tmp_path))
        assert [path.name for path in (tmp_path / "work").iterdir()] == ["warming.png"]
        assert (store / "daskcache.json").exists()
