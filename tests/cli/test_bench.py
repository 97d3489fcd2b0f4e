"""``budgetctl bench``: its arithmetic and its shape; the numbers themselves are the machine's."""

from __future__ import annotations

import json

import pytest

from budgetctl.cli import bench, main


def test_median_and_p99_by_nearest_rank() -> None:
    found = bench.summary("x", [1000 * i for i in range(1, 201)], ratio=2.0)
    assert found == {"name": "x", "p50_us": 100, "p99_us": 198, "n": 200, "ratio": 2.0}


def test_warm_up_calls_are_not_counted() -> None:
    made: list[int] = []
    times = bench.timed([lambda i=i: made.append(i) for i in range(10)], warmup=4)  # type: ignore[misc]
    assert made == list(range(10))
    assert len(times) == 6


def test_the_prompts_have_the_length_they_are_named_after() -> None:
    assert {len(bench._prompt(250, i)) for i in range(20)} == {250}
    assert len(bench._prompt(10_000, 1)) == 10_000


def test_importing_the_package_loads_nothing_heavy() -> None:
    [found] = bench.imports(n=1)
    assert found["name"] == "import"
    assert found["forbidden"] == []


def test_a_heavy_import_is_a_result_that_says_no(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    heavy = lambda: [bench.summary("import", [1], forbidden=["torch"])]  # noqa: E731  # a stand-in
    monkeypatch.setitem(bench.BENCHES, "import", heavy)
    assert main(["bench", "import", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["results"][0]["forbidden"] == ["torch"]


def test_one_delta_is_measured_on_text_that_is_no_loop() -> None:
    [found] = bench.stream(n=600)
    assert (found["name"], found["n"]) == ("delta_safe", 540)


def test_replay_reports_rows_per_second_and_the_peak_of_memory() -> None:
    [found] = bench.replay(traces=200)
    assert (found["name"], found["n"]) == ("replay_rows_per_s", 2400)
    assert found["rows_per_s"] > 0
    assert 0 < found["peak_mb"] < 1024
    assert "rows/s" in bench._table([found])


def test_a_fresh_process_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match="no such thing"):
        bench._fresh("raise SystemExit('no such thing')", n=1)


def test_a_group_that_lacks_its_extra_is_left_out_of_the_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> list[bench.Result]:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(bench, "BENCHES", {"stream": lambda: [bench.summary("s", [5])], "generate": missing})
    assert main(["bench"]) == 0
    printed = capsys.readouterr()
    assert "generate left out: torch" in printed.err
    assert printed.out.splitlines()[1].startswith("s ")
