"""Query hashes are keyed per installation; the key file is private, whole, and the first one stays."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from budgetctl import hashing
from budgetctl.hashing import home, load_key, query_hash


@pytest.fixture(autouse=True)
def config_home(tmp_path, monkeypatch):
    monkeypatch.setenv("BUDGETCTL_HOME", str(tmp_path / "home"))
    load_key.cache_clear()
    yield tmp_path / "home"
    load_key.cache_clear()


def test_equal_texts_hash_equal_and_the_text_is_not_in_it():
    assert query_hash("What is 2+2?") == query_hash("What is 2+2?")
    assert query_hash("What is 2+2?") != query_hash("What is 2+3?")
    scope, digest = query_hash("What is 2+2?").split(":")
    assert scope == "install"
    assert len(digest) == 32


def test_another_installation_has_other_hashes(tmp_path, monkeypatch):
    here = query_hash("x")
    monkeypatch.setenv("BUDGETCTL_HOME", str(tmp_path / "elsewhere"))
    assert query_hash("x") != here


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX modes")
def test_the_key_is_readable_by_its_user_alone_and_nothing_else_is_left(config_home):
    query_hash("x")
    [key] = config_home.iterdir()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert len(key.read_bytes()) == 32


def test_many_processes_agree_on_one_key(config_home):
    code = "from budgetctl.hashing import query_hash; print(query_hash('x'))"
    with ThreadPoolExecutor(6) as pool:
        runs = pool.map(lambda _: subprocess.check_output([sys.executable, "-c", code]), range(6))
    assert len(set(runs)) == 1
    assert len(list(config_home.iterdir())) == 1


def test_the_key_that_was_there_first_stays(config_home):
    path = config_home / "query.key"
    assert hashing._create(path) == hashing._create(path) == path.read_bytes()
    assert [entry.name for entry in config_home.iterdir()] == ["query.key"]


def test_threads_agree_on_one_key():
    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(query_hash, ["x"] * 64))) == 1


def test_without_a_place_for_the_key_hashes_say_that_they_hold_for_this_process(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("BUDGETCTL_HOME", str(file / "below"))
    assert query_hash("x").startswith("process:")
    assert query_hash("x") == query_hash("x")


def test_a_damaged_key_is_not_replaced(config_home):
    config_home.mkdir()
    (config_home / "query.key").write_bytes(b"short")
    assert query_hash("x").startswith("process:")
    assert (config_home / "query.key").read_bytes() == b"short"


def test_the_repr_of_a_key_does_not_show_it():
    key = load_key(home())
    assert key.secret.hex() not in repr(key)
    assert repr(key.secret) not in repr(key)


@pytest.mark.skipif(sys.platform != "linux", reason="XDG")
def test_the_home_follows_the_platform(monkeypatch):
    monkeypatch.delenv("BUDGETCTL_HOME")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/xdg")
    assert home() == home().__class__(os.path.join("/xdg", "budgetctl"))


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX users")
def test_a_user_without_a_home_gets_hashes_that_hold_for_this_process(monkeypatch):
    import pwd

    def nobody(uid):
        raise KeyError(uid)

    for name in ("BUDGETCTL_HOME", "XDG_CONFIG_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert query_hash("x").startswith("process:")
    assert query_hash("x") == query_hash("x")
