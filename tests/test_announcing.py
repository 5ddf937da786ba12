"""Jobs that tell Prometheus where they listen: one file each, which goes with its process, however that ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from metriclog import announcing
from metriclog.announcing import Announcement, announce, remove_stale
from metriclog.exposition import expose
from metriclog.settings import Settings
from tests.jobs import go_on, job, line
from tests.snapshots import LIMIT_S, RUNNING, get, showing, values

has_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="no /proc to look into")


def targets(folder: Path) -> list[str]:
    """What Prometheus would scrape: the glob of its documentation."""
    groups = [group for path in folder.glob("*.json") for group in json.loads(path.read_text())]
    return sorted(target for group in groups for target in group["targets"])


# -- one file ---------------------------------------------------------------------------------------------------------


def test_a_file_says_where_to_scrape_and_adds_no_label_to_any_series(tmp_path: Path) -> None:
    announcement = Announcement(tmp_path, "127.0.0.1:9")
    (path,) = tmp_path.iterdir()
    (group,) = json.loads(path.read_text())
    assert group["targets"] == ["127.0.0.1:9"]
    assert group["labels"] == {"__meta_metriclog_host": os.uname().nodename, "__meta_metriclog_pid": str(os.getpid())}
    assert all(name.startswith("__meta_") for name in group["labels"])
    announcement.close()
    announcement.close()
    assert list(tmp_path.iterdir()) == []


def test_prometheus_can_read_it_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        announcement = announce(tmp_path / "new" / "folder", "127.0.0.1:9")
    finally:
        os.umask(before)
    assert announcement
    (path,) = (tmp_path / "new" / "folder").iterdir()
    assert path.stat().st_mode & 0o777 == 0o644
    assert path.parent.stat().st_mode & 0o777 == 0o755
    announcement.close()


def test_a_folder_that_is_there_keeps_its_rights(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    announcement = announce(tmp_path, "127.0.0.1:9")
    assert announcement
    assert tmp_path.stat().st_mode & 0o7777 == 0o1777
    announcement.close()


def test_a_file_that_cannot_be_finished_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        assert [path.name[0] for path in tmp_path.iterdir()] == ["."]  # which `*.json` does not match
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        Announcement(tmp_path, "127.0.0.1:9")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_said_once_and_the_port_is_open(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    settings = Settings(prometheus_port=0, prometheus_sd_dir=tmp_path / "file" / "folder")
    with showing(RUNNING):
        for _ in range(3):
            exposed = expose(settings)
            assert exposed
            assert values(get(exposed.address), "metriclog_run_running") == {(): 1.0}
    (record,) = caplog.records
    assert "METRICLOG_PROMETHEUS_SD_DIR" in record.getMessage()


def test_several_runs_of_a_process_are_one_target(tmp_path: Path) -> None:
    settings = Settings(prometheus_port=0, prometheus_sd_dir=tmp_path)
    with showing(RUNNING):
        exposed = [expose(settings) for _ in range(3)]
        assert exposed[0]
        assert targets(tmp_path) == [exposed[0].address]
    assert list(tmp_path.iterdir()) == []


# -- what is left behind ----------------------------------------------------------------------------------------------


def test_two_jobs_at_once_have_two_ports_and_two_files_which_go_with_them(tmp_path: Path) -> None:
    with job("a", prometheus_sd_dir=tmp_path) as one, job("b", prometheus_sd_dir=tmp_path) as other:
        addresses = [line(one), line(other)]
        assert targets(tmp_path) == sorted(addresses)
        assert len(set(addresses)) == 2
        for address, run in zip(addresses, "ab", strict=True):
            assert values(get(address), "metriclog_run_running", "run") == {(run,): 1.0}
        for process in (one, other):
            go_on(process)
            assert process.wait(LIMIT_S) == 0
    assert list(tmp_path.iterdir()) == []


def forget_the_dead(folder: Path) -> None:
    """What the next job does that starts after an hour."""
    remove_stale(folder)
    remove_stale(folder, lambda: time.time() + announcing.REMEMBERED_S + 60)


def test_what_a_killed_job_left_is_seen_for_an_hour_and_then_removed_and_the_living_stay(tmp_path: Path) -> None:
    with job("killed", prometheus_sd_dir=tmp_path) as killed, job("alive", prometheus_sd_dir=tmp_path) as alive:
        gone, there = line(killed), line(alive)
        killed.kill()
        killed.wait(LIMIT_S)
        assert targets(tmp_path) == sorted([gone, there])
        with job("next", prometheus_sd_dir=tmp_path) as third:
            new = line(third)
            assert targets(tmp_path) == sorted([gone, there, new])
            forget_the_dead(tmp_path)
            assert targets(tmp_path) == sorted([there, new])


def stale(folder: Path, name: str, text: str | None = None) -> Path:
    """A file that nobody holds."""
    path = folder / name
    group = [{"targets": ["127.0.0.1:1"], "labels": {"__meta_metriclog_pid": "1"}}]
    path.write_text(json.dumps(group) if text is None else text)
    return path


def test_only_files_of_this_host_that_metriclog_wrote_are_removed(tmp_path: Path) -> None:
    ours = f"{announcing._prefix()}1-00000000.json"
    stay = [
        stale(tmp_path, "node.json"),
        stale(tmp_path, "metriclog-elsewhere-1-00000000.json"),
        stale(tmp_path, f"{announcing._prefix()}1-notes.json"),
        stale(tmp_path, ours.replace("1-0", "2-0"), '[{"targets": [], "labels": {}}]'),
        stale(tmp_path, ours.replace("1-0", "3-0"), "not JSON"),
        stale(tmp_path, ours.replace("1-0", "4-0"), '{"a": 1}'),
        stale(tmp_path, f".{ours}.tmp"),  # somebody may be writing it
    ]
    (tmp_path / ours.replace("1-0", "5-0")).symlink_to(stay[0])
    goes = stale(tmp_path, ours)
    old = stale(tmp_path, f".{ours.replace('1-0', '6-0')}.tmp", "[{")
    os.utime(old, (0, 0))
    forget_the_dead(tmp_path)
    assert not goes.exists()
    assert not old.exists()
    assert len(list(tmp_path.iterdir())) == len(stay) + 1


# -- forks ------------------------------------------------------------------------------------------------------------

OUTLIVES = """
    input()
    pid = os.fork()
    if pid == 0:
        exposed.close()  # the parent's: nothing to do
        say(os.getpid())
        input()
        say([os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if int(fd) > 2
             and os.path.exists(f"/proc/self/fd/{fd}")])
        live.remove(run)
        live.add(Scripted(replace(RUNNING, run="child")))
        exposed = exposition.expose(settings)
        say(exposed.address if exposed else None)
        input()
        exposition.shut_down()
        os._exit(0)
    os.wait()
"""


@has_proc
def test_a_forked_child_neither_answers_for_its_parent_nor_holds_its_port_or_its_file(tmp_path: Path) -> None:
    with job("parent", OUTLIVES, prometheus_sd_dir=tmp_path) as parent:
        address = line(parent)
        port = int(address.split(":")[1])
        idle = socket.create_connection(("127.0.0.1", port), LIMIT_S)  # is accepted when the fork comes
        get(address)
        go_on(parent)
        assert int(line(parent)) != parent.pid
        assert targets(tmp_path) == [address]  # the child's close() left it alone
        assert values(get(address), "metriclog_run_running", "run") == {("parent",): 1.0}
        parent.kill()
        parent.wait(LIMIT_S)
        with pytest.raises(OSError, match="refused"):
            get(address)
        assert idle.recv(1) == b""  # nobody holds the connection either
        idle.close()
        forget_the_dead(tmp_path)
        assert targets(tmp_path) == []
        go_on(parent)
        assert [held for held in json.loads(line(parent).replace("'", '"')) if "socket" in held] == []
        own = line(parent)
        assert own != address
        assert targets(tmp_path) == [own]
        assert values(get(own), "metriclog_run_running", "run") == {("child",): 1.0}
        go_on(parent)
        assert parent.stdout
        assert parent.stdout.read() == ""
    assert list(tmp_path.iterdir()) == []


def test_a_forked_child_leaves_a_fixed_port_to_its_parent_without_a_word(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    child = """
        if os.fork() == 0:
            say(exposition.expose(settings))
            os._exit(0)
        os.wait()
    """
    with job("parent", child, prometheus_sd_dir=tmp_path, prometheus_port=str(port)) as parent:
        assert line(parent) == f"127.0.0.1:{port}"
        said, complained = parent.communicate(timeout=LIMIT_S)
    assert (said, complained) == ("None\n", "")


def test_a_child_of_multiprocessing_takes_its_file_away(tmp_path: Path) -> None:
    child = """
        import multiprocessing
        def work():
            say(exposition.expose(settings).address)
        process = multiprocessing.get_context("fork").Process(target=work)
        process.start()
        process.join()
        say("joined")
        input()
    """
    with job("parent", child, prometheus_sd_dir=tmp_path) as parent:
        address, own = line(parent), line(parent)
        assert own != address
        assert line(parent) == "joined"
        assert targets(tmp_path) == [address]


# -- the end of the process -------------------------------------------------------------------------------------------


def test_the_last_scrape_is_answered_while_the_interpreter_ends(tmp_path: Path) -> None:
    with job(
        "r", 'run.change(status="finished"); say("ended")', prometheus_sd_dir=tmp_path, prometheus_linger_s="60"
    ) as process:
        address, _ = line(process), line(process)
        assert values(get(address), "metriclog_run_status", "status")[("finished",)] == 1.0
        assert process.wait(LIMIT_S) == 0
    assert list(tmp_path.iterdir()) == []


def test_clients_that_hang_on_do_not_hold_up_the_end(tmp_path: Path) -> None:
    with job("r", prometheus_sd_dir=tmp_path) as process:
        port = int(line(process).split(":")[1])
        clients = [socket.create_connection(("127.0.0.1", port), LIMIT_S) for _ in range(8)]
        go_on(process)
        assert process.wait(LIMIT_S) == 0
        for client in clients:
            client.close()


def test_ctrl_c_ends_the_waiting(tmp_path: Path) -> None:
    with job("r", 'run.change(status="failed")', prometheus_sd_dir=tmp_path, prometheus_linger_s="3600") as process:
        line(process)
        while process.poll() is None:  # the first ones may come before the waiting
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
    assert list(tmp_path.iterdir()) == []
