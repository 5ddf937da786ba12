"""The command: what it prints and how it ends, run in this process against journals in a temporary folder."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import metriclog
from metriclog import cli, directory
from metriclog.segments import pack_header, segment_name
from metriclog.settings import Settings
from metriclog.shipper import shipping_lock
from metriclog.transport import Transport
from tests.servers.scripted import Answer, says, serving

Command = Callable[..., tuple[int, str, str]]
UNPARSABLE = b'{"code":"invalid","message":"unable to parse \'x\': missing fields"}'


@pytest.fixture
def metriclog_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command with these arguments: exit code, what it printed, what it complained."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["metriclog", *arguments])
        capsys.readouterr()
        code: object = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
        printed = capsys.readouterr()
        return int(str(code or 0)), printed.out, printed.err

    return command


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """A folder with a finished run of 3 points and what belongs to it: 8 points in all."""
    folder = tmp_path / "journal"
    settings = Settings(dir=folder)
    with metriclog.init("exp", run_id="r", params={"lr": 0.1, "act": "[relu]"}, settings=settings) as run:
        for step in range(2):
            run.log({"loss": 1.0}, step)
    return folder


def test_without_arguments_the_command_explains_itself(metriclog_command: Command) -> None:
    code, out, err = metriclog_command()
    assert code in (0, 2)
    assert "Usage" in out + err


def test_runs_lists_what_is_in_the_journal(metriclog_command: Command, journal: Path) -> None:
    code, out, _ = metriclog_command("runs", str(journal))
    assert code == 0
    row = next(line for line in out.splitlines() if " r " in line)
    assert re.search(r"exp +r +finished +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d +1 +lr=0.1, act=\[relu\]", row)
    assert " r " not in metriclog_command("runs", str(journal), "--experiment", "other")[1]


def test_runs_of_an_empty_folder_says_what_to_do(metriclog_command: Command) -> None:
    code, out, _ = metriclog_command("runs")
    assert (code, "metriclog demo" in out) == (0, True)


@pytest.mark.parametrize("arguments", [("sync",), ("runs", "--server"), ("backfill",)])
def test_without_a_server_the_command_ends_with_one_line_that_says_what_to_set(
    metriclog_command: Command, arguments: tuple[str, ...]
) -> None:
    code, out, err = metriclog_command(*arguments)
    assert (code, out) == (1, "")
    assert re.fullmatch(r"metriclog: .*METRICLOG_URL.*\n", err)


def test_status_without_a_server_says_that_the_journal_is_the_store(metriclog_command: Command, journal: Path) -> None:
    code, out, _ = metriclog_command("status", str(journal))
    assert code == 0
    assert re.search(r"r +\S+:\d+ +no +8 +0 +8 +0 +0 +since .*: no server configured", out)
    assert "no journals in" in metriclog_command("status", str(journal / "empty"))[1]


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METRICLOG_TOKEN", "t")


def test_sync_ships_what_is_left_and_a_second_time_nothing(
    metriclog_command: Command, journal: Path, token: None
) -> None:
    with serving(says(204)) as server:
        assert re.search(
            r"r +\S+ +no +8 +0 +8 +0 +0 +since .*: not shipped yet",
            metriclog_command("status", str(journal), "--url", server.url)[1],
        )
        code, out, _ = metriclog_command("sync", str(journal), "--url", server.url)
        assert (code, out.startswith(f"delivered 8 points to {server.url} ")) == (0, True), out
        assert out.endswith("quarantined 0\n")
        code, out, _ = metriclog_command("sync", str(journal), "--url", server.url)
        assert (code, out.startswith("delivered 0 points")) == (0, True)
        _, out, _ = metriclog_command("status", str(journal), "--url", server.url)
        assert re.search(r"r +\S+ +no +8 +8 +0 +0 +0 *$", out, re.M)
    assert len([path for _, path, _, _ in server.requests if "/write" in path]) == 1


def test_sync_gives_up_in_time_keeps_everything_and_says_so(
    metriclog_command: Command, journal: Path, token: None
) -> None:
    arguments = ("sync", str(journal), "--url", "http://127.0.0.1:1", "--give-up-after-s", "0.01")
    code, out, _ = metriclog_command(*arguments)
    assert code == 1
    assert "delivered 0 points" in out
    assert re.search(r"not everything is delivered; it stays in .*journal. no answer from http://127.0.0.1:1", out)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (says(401, b'{"message":"[/red] unauthorized access"}'), "[/red] unauthorized access. Check METRICLOG_TOKEN"),
        (says(404, b'{"message":"bucket not found"}'), "bucket not found. Check METRICLOG_BUCKET"),
        (says(200, b"<html>", Content_Type="text/html"), "not InfluxDB's 204"),
    ],
)
def test_sync_with_a_wrong_configuration_ends_with_the_servers_words(
    metriclog_command: Command, journal: Path, token: None, answer: Answer, words: str
) -> None:
    with serving(answer) as server:
        code, out, err = metriclog_command("sync", str(journal), "--url", server.url, "--give-up-after-s", "0")
    assert code == 1
    assert words in out
    assert "Traceback" not in out + err


def test_sync_leaves_alone_what_another_process_is_shipping(
    metriclog_command: Command, journal: Path, token: None
) -> None:
    with serving(says(204)) as server:
        target = Transport(Settings(url=server.url, token="t")).target  # type: ignore[arg-type]
        (folder,) = directory.process_directories(journal)
        with shipping_lock(folder, target):
            code, out, _ = metriclog_command("sync", str(journal), "--url", server.url)
    assert code == 1
    assert "r: another process is shipping it" in out


def test_sync_goes_on_where_one_directory_cannot_be_read_and_says_which(
    metriclog_command: Command, journal: Path, token: None
) -> None:
    bad = journal / "a-newer-one" / "0001-host"
    bad.mkdir(parents=True)
    (bad / segment_name(1)).write_bytes(pack_header(1, 0, version=99))
    with serving(says(204)) as server:
        code, out, err = metriclog_command("sync", str(journal), "--url", server.url)
    assert (code, err) == (1, "")
    assert "delivered 8 points" in out
    assert re.search(r"a-newer-one.*newer metriclog", out)


def test_an_unknown_setting_in_the_environment_is_one_line(
    metriclog_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METRICLOG_URL", "127.0.0.1:8086")
    code, _, err = metriclog_command("status")
    assert code == 1
    assert re.fullmatch(r"metriclog: METRICLOG_URL: .*http://.*\n", err)
