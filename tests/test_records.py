"""Outcome files survive threads, processes, kill -9 and full disks; what cannot be read is named."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from budgetctl import records
from budgetctl.errors import ConfigError
from budgetctl.outcomes import Feedback, Outcome
from budgetctl.records import JsonlSink, feedback, read
from budgetctl.types import Budget, Decision, StopReason

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and limits")


def made(**fields) -> Outcome:
    decision = Decision(budget=Budget(), policy="auto", policy_hash="h")
    return Outcome.of(decision, stop=StopReason.NATURAL, answered=True, **fields)


def ids(path: Path) -> list[str]:
    return [row.id for row in read(path)]


def test_a_written_row_is_in_the_file_when_write_returns_and_reads_back_equal(tmp_path):
    sink, row = JsonlSink(tmp_path / "deep" / "o.jsonl"), made(model="m")
    sink.write(row)
    assert list(read(sink.path)) == [row]


def test_text_is_kept_only_when_the_sink_was_told_to(tmp_path):
    shut, open_ = JsonlSink(tmp_path / "a.jsonl"), JsonlSink(tmp_path / "b.jsonl", store_text=True)
    for sink in (shut, open_):
        sink.write(made(), text='say "hi" \ud800')
    assert "text" not in json.loads(shut.path.read_text())
    assert json.loads(open_.path.read_text())["text"].startswith('say "hi"')
    assert stat.S_IMODE(open_.path.stat().st_mode) == 0o600
    [with_text] = read(open_.path)
    shut.write(with_text)
    assert "text" not in json.loads(shut.path.read_text().splitlines()[-1])
    open_.write(with_text)
    assert json.loads(open_.path.read_text().splitlines()[-1])["text"].startswith('say "hi"')


def test_threads_share_a_sink(tmp_path):
    sink = JsonlSink(tmp_path / "o.jsonl")
    rows = [[made() for _ in range(25)] for _ in range(8)]
    threads = [threading.Thread(target=lambda own=own: [sink.write(r) for r in own]) for own in rows]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sink.flush()
    assert sorted(ids(sink.path)) == sorted(row.id for own in rows for row in own)


WRITER = textwrap.dedent(
    """
    import sys
    from budgetctl.outcomes import Outcome
    from budgetctl.records import JsonlSink
    from budgetctl.types import Budget, Decision, StopReason
    path, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    decision = Decision(budget=Budget(), policy="auto", policy_hash="h")
    sink = JsonlSink(path)
    for i in range(count):
        row = Outcome.of(decision, stop=StopReason.NATURAL, answered=True, id=f"{name}-{i}", model="x" * 3000)
        sink.write(row)
        if not sink.waiting:
            print(row.id, flush=True)
    """
)


@posix
def test_eight_processes_write_while_one_is_killed(tmp_path):
    path = tmp_path / "o.jsonl"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), f"p{n}", "200" if n else "1000000"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(8)
    ]
    victim = writers[0]
    assert victim.stdout is not None
    promised = [victim.stdout.readline().strip() for _ in range(50)]
    victim.send_signal(signal.SIGKILL)
    promised += victim.communicate()[0].split("\n")[:-1]
    for writer in writers[1:]:
        writer.communicate()
    seen = ids(path)
    assert len(seen) == len(set(seen))
    assert {f"p{n}-{i}" for n in range(1, 8) for i in range(200)} <= set(seen)
    assert set(promised) <= set(seen), "a row that write() returned for outlives kill -9"


def test_a_torn_last_line_costs_one_row_and_no_other(tmp_path, caplog):
    sink, first, lost, last = JsonlSink(tmp_path / "o.jsonl"), made(), made(), made()
    sink.write(first)
    with sink.path.open("a") as file:
        file.write(lost.model_dump_json()[:100])
    sink.write(last)
    rows = read(sink.path)
    assert [row.id for row in rows] == [first.id, last.id]
    assert rows.unreadable == 1
    assert f"{sink.path}:2: passed over" in caplog.text


def test_a_complete_last_line_without_its_newline_is_kept(tmp_path):
    sink, first, second = JsonlSink(tmp_path / "o.jsonl"), made(), made()
    sink.path.write_text(first.model_dump_json())
    sink.write(second)
    assert ids(sink.path) == [first.id, second.id]


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounts"
)
def test_a_full_disk_tears_nothing_and_its_rows_come_later(tmp_path, caplog):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        sink = JsonlSink(disk / "o.jsonl")
        ballast = disk / "ballast"
        ballast.write_bytes(b"x" * 50_000)
        rows = [made(model="m" * 1000) for _ in range(20)]
        for row in rows:
            sink.write(row)
        assert 0 < sink.waiting < 20
        assert read_bytes_end(sink.path) == b"\n"
        assert ids(sink.path) == [row.id for row in rows[: 20 - sink.waiting]]
        assert caplog.text.count("wait in memory") == 1
        ballast.unlink()
        after = made()
        sink.write(after)
        assert sink.waiting == 0
        assert ids(sink.path) == [row.id for row in [*rows, after]]
    finally:
        subprocess.run(["umount", disk], check=True)


def read_bytes_end(path: Path) -> bytes:
    return path.read_bytes()[-1:]


@posix
def test_a_short_write_is_taken_back(tmp_path):
    """The same without root: the kernel cuts writes at the file size limit."""
    script = WRITER + textwrap.dedent(
        """
        import resource, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        for i in range(10):
            row = Outcome.of(decision, stop=StopReason.NATURAL, answered=True, id=str(i), model="x" * 3000)
            sink.write(row)
        print("waiting", sink.waiting)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.getrlimit(resource.RLIMIT_FSIZE)[1],) * 2)
        """
    )
    path = tmp_path / "o.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", script, path, "p", "0"], capture_output=True, text=True, check=True
    )
    assert int(done.stdout.split()[-1]) > 0
    rows = read(path)
    assert [row.id for row in rows] == [str(i) for i in range(10)], "what waited was written at exit"
    assert rows.unreadable == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_memory_is_bounded_and_what_was_dropped_is_counted():
    sink = JsonlSink("/dev/full", keep=3)
    for _ in range(5):
        sink.write(made())
    assert (sink.waiting, sink.dropped) == (3, 2)
    sink._waiting.clear()
    sink.dropped = 0  # nothing to report at exit


@posix
def test_a_process_that_holds_the_lock_and_hangs_delays_rows_but_not_calls(tmp_path, monkeypatch):
    import fcntl

    sink = JsonlSink(tmp_path / "o.jsonl")
    with sink.path.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        waits = []
        monkeypatch.setattr(records.time, "sleep", waits.append)
        monkeypatch.setattr(records.time, "monotonic", lambda: sum(waits))
        sink.write(made())
        first = sum(waits)
        sink.write(made())
        assert sink.waiting == 2
        assert sum(waits) - first < first / 10, "only the first call waits for long"
    assert sink.flush()
    assert len(ids(sink.path)) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_writes_its_own_rows_and_not_its_parents(tmp_path):
    script = WRITER + textwrap.dedent(
        """
        import fcntl, os
        held = open(path)
        fcntl.flock(held, fcntl.LOCK_EX)
        sink.write(Outcome.of(decision, stop=StopReason.NATURAL, answered=True, id="parent"))
        assert sink.waiting == 1
        held.close()
        if os.fork() == 0:
            sink.write(Outcome.of(decision, stop=StopReason.NATURAL, answered=True, id="child"))
        else:
            os.wait()
        """
    )
    path = tmp_path / "o.jsonl"
    subprocess.run([sys.executable, "-c", script, path, "p", "0"], check=True)
    assert sorted(ids(path)) == ["child", "parent"]


def test_what_json_cannot_hold_is_dropped_with_a_log_line_and_no_error(tmp_path, caplog):
    from budgetctl.outcomes import ControlRow

    sink = JsonlSink(tmp_path / "o.jsonl")
    sink.write(made(controls=(ControlRow(name="x", value=object(), strength="none"),)))
    assert sink.dropped == 1
    assert "cannot be stored" in caplog.text
    sink.dropped = 0


def test_a_path_that_can_never_work_is_refused_before_the_first_call(tmp_path):
    with pytest.raises(ConfigError, match="cannot be appended to"):
        JsonlSink(tmp_path)


def test_reading_names_another_major_version_with_file_and_line(tmp_path):
    path = tmp_path / "o.jsonl"
    path.write_text(made().model_dump_json() + "\n" + '{"schema_version": "2.0"}\n')
    with pytest.raises(ConfigError, match=rf"{path}:2: .*this version reads 1\.x"):
        list(read(path))


def test_reading_passes_over_what_is_no_row_and_counts_it(tmp_path, caplog):
    row = made()
    path = tmp_path / "o.jsonl"
    path.write_text("\n".join(["nonsense"] * 8 + [row.model_dump_json(), "[1]", "{}", ""]))
    rows = read(path)
    assert [r.id for r in rows] == [row.id]
    assert rows.unreadable == 10
    assert caplog.text.count("passed over") == 6, "five by name, then one line for the rest"


# --- feedback ---------------------------------------------------------------------------------------------


def test_feedback_goes_to_the_file_that_recorded_the_outcome(tmp_path):
    first, second = JsonlSink(tmp_path / "a.jsonl"), JsonlSink(tmp_path / "b.jsonl")
    row = made()
    first.write(made())
    second.write(row)
    feedback(row.id, correct=True, source="grader")
    assert len(ids(first.path)) == 1
    [_, said] = read(second.path)
    assert isinstance(said, Feedback)
    assert (said.id, said.correct, said.score, said.source) == (row.id, True, None, "grader")


def test_feedback_by_path_works_from_any_process(tmp_path):
    sink = JsonlSink(tmp_path / "o.jsonl")
    said = feedback("from-yesterday", score=0.25, path=sink.path)
    assert list(read(sink.path)) == [said]
    with pytest.raises(FileNotFoundError):
        feedback("x", correct=True, path=tmp_path / "missing.jsonl")


def test_feedback_on_an_unknown_outcome_asks_for_the_path():
    with pytest.raises(ConfigError, match=r"recorded no outcome 'nobody' in a file; pass path="):
        feedback("nobody", correct=True)


@pytest.mark.parametrize("said", [{}, {"correct": True, "score": 1.0}, {"score": -1.0}])
def test_feedback_that_says_nothing_or_too_much_is_refused(said, tmp_path):
    with pytest.raises(ConfigError):
        feedback("x", **said, path=tmp_path / "o.jsonl")


def test_only_so_many_ids_are_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "_REMEMBERED_IDS", 2)
    records._recorded.clear()
    sink = JsonlSink(tmp_path / "o.jsonl")
    rows = [made() for _ in range(3)]
    for row in rows:
        sink.write(row)
    assert list(records._recorded) == [rows[1].id, rows[2].id]
