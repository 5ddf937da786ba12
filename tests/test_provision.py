"""`metriclog provision DIR`: from a wheel or from the repository, twice, over what the user changed, with secrets."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from metriclog import provision
from metriclog.errors import UsageError
from tests.commands import metriclog, metriclog_json

ROOT = Path(__file__).resolve().parents[1]
COMPOSE = "docker-compose.yml"
BUILD_TIMEOUT_S = 120


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def settings_of(path: Path) -> dict[str, str]:
    return dict(re.findall(r"^(\w+)=(.*)$", path.read_text(encoding="utf-8"), re.M))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files, written once."""
    provision.write(tmp_path / "stack")
    return tmp_path / "stack"


@pytest.fixture
def newer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The files of another version of metriclog, to be changed by the test; from now on they are the shipped ones."""
    shipped = {}
    for name, path in provision.shipped_files().items():
        copy = tmp_path / "newer" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
        shipped[name] = copy
    monkeypatch.setattr(
        provision, "shipped_files", lambda: {name: path for name, path in shipped.items() if path.exists()}
    )
    return tmp_path / "newer"


# --- What comes with metriclog --------------------------------------------------------------------------------------


def tracked() -> set[str]:
    """What git knows, or would add, of what belongs to the files."""
    command = [
        "git",
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
        "--",
        *provision.NAMES,
        *provision.FOLDERS,
    ]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    if listed.returncode != 0:
        pytest.skip("not a git checkout: which files belong to the repository is unknown")
    return {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}


def test_in_the_repository_the_files_are_those_of_the_repository() -> None:
    assert provision.shipped_files().keys() == tracked()


def test_whatever_is_added_below_the_folders_comes_along_but_what_editors_leave_there(
    newer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    added = {"provisioning/grafana/alerting/rules.yaml", "provisioning/RUNBOOK.md", "dashboards/metriclog/new.json"}
    left = {"provisioning/.env", "provisioning/prometheus/targets/metriclog-host-7-0a1b2c3d.json"}
    left |= {"provisioning/.DS_Store", "dashboards/new.json~", "provisioning/x/__pycache__/y.pyc"}
    for name in added | left:
        (newer / name).parent.mkdir(parents=True, exist_ok=True)
        (newer / name).write_text("{}")
    monkeypatch.undo()
    monkeypatch.setattr(provision, "__file__", str(newer / "metriclog" / "provision.py"))
    assert provision.shipped_files().keys() == tracked() | added
    assert {} in provision.shipped_dashboards()


def hatchling(target: str, source: Path, directory: Path) -> Path:
    """Builds a wheel or an sdist from `source`, which stays as it is."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(directory)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=BUILD_TIMEOUT_S)
    (built,) = directory.iterdir()
    return built


@pytest.mark.parametrize("by_way_of", ["the repository", "an sdist"])
def test_a_wheel_without_the_repository_writes_the_same_files(tmp_path: Path, by_way_of: str) -> None:
    source = ROOT
    if by_way_of == "an sdist":
        with tarfile.open(hatchling("sdist", ROOT, tmp_path / "sdist")) as archive:
            archive.extractall(tmp_path / "unpacked", filter="data")
        (source,) = (tmp_path / "unpacked").iterdir()
    with zipfile.ZipFile(hatchling("wheel", source, tmp_path / "wheel")) as wheel:
        wheel.extractall(tmp_path / "site")

    env = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    command = [sys.executable, "-m", "metriclog", "provision", "stack"]
    subprocess.run(command, cwd=tmp_path, env=env, check=True, capture_output=True, timeout=BUILD_TIMEOUT_S)
    written = snapshot(tmp_path / "stack")
    assert written.keys() == tracked() | {".env", provision.WRITTEN}
    assert {name: written[name] for name in tracked()} == {name: (ROOT / name).read_bytes() for name in tracked()}


def test_an_installation_without_the_files_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(provision, "__file__", str(tmp_path / "metriclog" / "provision.py"))
    with pytest.raises(UsageError, match="install it again"):
        provision.shipped_files()


# --- Writing --------------------------------------------------------------------------------------------------------


def test_it_says_what_it_wrote_and_what_comes_next(tmp_path: Path) -> None:
    code, out, err = metriclog("provision", "a folder")
    assert (code, err) == (0, "")
    assert {line.removeprefix("wrote ") for line in out.splitlines() if line.startswith("wrote ")} == tracked() | {
        ".env, with secrets of its own that only you can read"
    }
    assert "cd 'a folder' && docker compose up -d" in out
    assert (tmp_path / "a folder" / COMPOSE).read_bytes() == (ROOT / COMPOSE).read_bytes()


def test_a_second_time_nothing_changes(folder: Path) -> None:
    before = snapshot(folder)
    report = provision.write(folder)
    assert (report.wrote, report.kept, report.notes, snapshot(folder)) == ([], [], [], before)


def test_what_the_user_changed_is_kept_and_named_also_when_a_newer_one_comes(folder: Path, newer: Path) -> None:
    (folder / COMPOSE).write_text("mine")
    (newer / COMPOSE).write_text("newer")
    code, out, _ = metriclog("provision", str(folder))
    assert code == 0
    assert f"kept {COMPOSE}: it is not as metriclog wrote it; --force overwrites it" in out
    assert (folder / COMPOSE).read_text() == "mine"


def test_what_the_user_did_not_change_follows_the_newer_version(folder: Path, newer: Path) -> None:
    (newer / COMPOSE).write_text("newer")
    (newer / "provisioning" / "grafana" / "alerting").mkdir(exist_ok=True)
    assert provision.write(folder).wrote == [COMPOSE]
    assert (folder / COMPOSE).read_text() == "newer"
    (newer / COMPOSE).write_text("newest")
    assert provision.write(folder).wrote == [COMPOSE]


def test_what_the_user_changed_back_follows_again(folder: Path, newer: Path) -> None:
    first = (folder / COMPOSE).read_bytes()
    (folder / COMPOSE).write_text("mine")
    (newer / COMPOSE).write_text("newer")
    assert provision.write(folder).kept == [COMPOSE]
    (folder / COMPOSE).write_bytes(first)
    assert provision.write(folder).wrote == [COMPOSE]


def test_force_overwrites_files_but_never_the_secrets(folder: Path) -> None:
    secrets = (folder / ".env").read_bytes()
    (folder / COMPOSE).write_text("mine")
    assert metriclog_json("provision", str(folder), "--force")["wrote"] == [COMPOSE]
    assert (folder / COMPOSE).read_bytes() == (ROOT / COMPOSE).read_bytes()
    assert (folder / ".env").read_bytes() == secrets


def test_files_that_somebody_copied_there_are_not_ours_to_overwrite(tmp_path: Path) -> None:
    (tmp_path / "stack").mkdir()
    (tmp_path / "stack" / COMPOSE).write_text("another stack")
    assert provision.write(tmp_path / "stack").kept == [COMPOSE]
    assert (tmp_path / "stack" / COMPOSE).read_text() == "another stack"


@pytest.mark.parametrize("damage", ["", "[]", "{", "null"])
def test_without_knowing_what_it_wrote_it_overwrites_nothing_that_differs(
    folder: Path, newer: Path, damage: str
) -> None:
    (folder / provision.WRITTEN).write_text(damage)
    (newer / COMPOSE).write_text("newer")
    report = provision.write(folder)
    assert (report.wrote, report.kept) == ([], [COMPOSE])
    assert json.loads((folder / provision.WRITTEN).read_text()).keys() == provision.shipped_files().keys() - {COMPOSE}


def test_a_file_that_no_longer_comes_with_metriclog_is_named_and_left(folder: Path, newer: Path) -> None:
    gone = next(name for name in provision.shipped_files() if name.startswith("dashboards/"))
    (newer / gone).unlink()
    assert f"{gone} no longer comes with metriclog" in metriclog("provision", str(folder))[1]
    assert (folder / gone).exists()


def test_a_file_that_was_deleted_is_written_again(folder: Path) -> None:
    (folder / COMPOSE).unlink()
    assert provision.write(folder).wrote == [COMPOSE]


@pytest.mark.skipif(os.name != "posix", reason="POSIX modes")
def test_grafana_in_its_container_can_read_the_files_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        provision.write(tmp_path / "stack")
    finally:
        os.umask(before)
    for path in (tmp_path / "stack").rglob("*"):
        mode = path.stat().st_mode & 0o777
        private = path.name.startswith(".") and path.name != ".env.example"
        assert mode == (0o755 if path.is_dir() else 0o600 if private else 0o644), path


def test_a_place_where_nothing_can_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, out, err = metriclog("provision", str(tmp_path / "file" / "stack"))
    assert (code, out) == (1, "")
    assert re.fullmatch(r"metriclog: cannot write to .*stack: .*\n", err)


@pytest.mark.parametrize("arguments", [(), ("x", "--check"), ("--check", "--apply"), ("x", "--apply", "--check")])
def test_one_thing_at_a_time(arguments: tuple[str, ...], tmp_path: Path) -> None:
    code, out, err = metriclog("provision", *arguments)
    assert (code, out) == (1, "")
    assert "a folder to write the files to, --check, --apply" in err
    assert list(tmp_path.iterdir()) == []


# --- Secrets --------------------------------------------------------------------------------------------------------


def test_the_secrets_are_made_here_each_its_own_and_only_the_user_can_read_them(folder: Path) -> None:
    made, example = settings_of(folder / ".env"), settings_of(ROOT / ".env.example")
    secret = [name for name, value in example.items() if value.startswith("change-me")]
    assert len({made[name] for name in secret}) == len(secret) == 3
    assert all(re.fullmatch(r"[0-9a-f]{48}", made[name]) for name in secret)
    assert {name: made[name] for name in made if name not in secret} == {
        name: example[name] for name in example if name not in secret
    }
    assert (folder / ".env").stat().st_mode & 0o077 == 0


def test_two_folders_have_different_secrets(folder: Path, tmp_path: Path) -> None:
    provision.write(tmp_path / "other")
    one, other = settings_of(folder / ".env"), settings_of(tmp_path / "other" / ".env")
    assert {name for name in one if one[name] == other[name]} == {
        "METRICLOG_URL",
        "GRAFANA_ANONYMOUS",
        "GRAFANA_INFLUX_TOKEN",
        "GRAFANA_ALERT_WEBHOOK",
        "GRAFANA_ALERT_TYPE",
        "PROMETHEUS_ALERT_WEBHOOK",
        "PROMETHEUS_ALERT_TYPE",
        "DOCKER_GATEWAY",
    }


def test_no_secret_is_printed_or_kept_elsewhere(tmp_path: Path) -> None:
    _, out, err = metriclog("provision", "stack")
    _, json_out, _ = metriclog("provision", "stack", "--json")
    elsewhere = [body for name, body in snapshot(tmp_path / "stack").items() if name != ".env"]
    for name, value in settings_of(tmp_path / "stack" / ".env").items():
        if re.search("PASSWORD|METRICLOG_TOKEN", name):
            assert value not in out + err + json_out
            assert not any(value.encode() in body for body in elsewhere)


def test_known_secrets_and_missing_settings_of_a_users_env_are_named(folder: Path) -> None:
    text = (ROOT / ".env.example").read_text(encoding="utf-8").replace("GRAFANA_ANONYMOUS=false\n", "")
    (folder / ".env").write_text(text.replace("change-me-grafana", "my own"), encoding="utf-8")
    code, out, _ = metriclog("provision", str(folder))
    assert code == 0
    assert ".env holds secrets that everybody can read (METRICLOG_TOKEN, INFLUXDB_PASSWORD)" in out
    assert ".env does not set GRAFANA_ANONYMOUS" in out
    assert "my own" in (folder / ".env").read_text(encoding="utf-8")


def test_an_env_of_any_bytes_is_left_as_it_is(folder: Path) -> None:
    (folder / ".env").write_bytes(b"\xff\xfe\x00")
    provision.write(folder)
    assert (folder / ".env").read_bytes() == b"\xff\xfe\x00"
