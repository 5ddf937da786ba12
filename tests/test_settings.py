"""Settings: read from METRICLOG_* variables, wrong ones named, and a token that never shows."""

from __future__ import annotations

import pickle
import traceback
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from metriclog.errors import SettingsError
from metriclog.settings import Settings

SECRET = "s3cr3t-t0ken"


# -- reading ------------------------------------------------------------------------------------------------------


def test_without_any_variable_metriclog_is_offline_in_a_folder_below_the_working_directory() -> None:
    settings = Settings.load()
    assert settings.effective_mode() == "offline"
    assert settings.dir == Path(".metriclog")
    assert [settings.url, settings.token, settings.read_token()] == [None, None, None]


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("URL", "https://influx.example:8086", "https://influx.example:8086"),
        ("ORG", "team", "team"),
        ("BUCKET", "db/autogen", "db/autogen"),
        ("DIR", "/data/journals", Path("/data/journals")),
        ("MODE", "disabled", "disabled"),
        ("GRAFANA_URL", "http://grafana.example/sub", "http://grafana.example/sub"),
        ("VERIFY_TLS", "false", False),
        ("CONNECT_TIMEOUT_S", "0.5", 0.5),
        ("EXIT_TIMEOUT_S", "0", 0.0),
        ("BATCH_MAX_POINTS", "500", 500),
        ("SEGMENT_BYTES", "65536", 65536),
    ],
)
def test_every_field_is_read_from_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, value: object
) -> None:
    monkeypatch.setenv(f"METRICLOG_{name}", text)
    assert getattr(Settings.load(), name.lower()) == value


@pytest.mark.parametrize("name", [name.upper() for name in Settings.model_fields])
def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Compose files and CI set variables to nothing where nothing was meant."""
    monkeypatch.setenv(f"METRICLOG_{name}", "")
    assert Settings.load() == Settings()


def test_what_is_given_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METRICLOG_ORG", "environment")
    assert Settings.load(org="given").org == "given"


def test_a_settings_object_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings.load().org = "other"


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("http://127.0.0.1:8086/", "http://127.0.0.1:8086"),
        ("http://127.0.0.1:8086//", "http://127.0.0.1:8086"),
        ("https://example.org/influx/", "https://example.org/influx"),
        (" http://[::1]:8086 ", "http://[::1]:8086"),
        ("", None),
    ],
)
def test_an_address_is_kept_without_its_last_slash(given: str, stored: str | None) -> None:
    assert Settings.load(url=given).url == stored
    assert Settings.load(grafana_url=given).grafana_url == stored


@pytest.mark.parametrize(
    ("mode", "url", "effective"),
    [
        (None, None, "offline"),
        (None, "http://h", "online"),
        ("offline", "http://h", "offline"),
        ("disabled", "http://h", "disabled"),
        ("online", None, "online"),
    ],
)
def test_the_mode_is_what_is_set_or_else_online_where_there_is_a_server(
    mode: Any, url: str | None, effective: str
) -> None:
    assert Settings.load(mode=mode, url=url).effective_mode() == effective


# -- wrong values -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("URL", "localhost:8086", "http://127.0.0.1:8086"),
        ("URL", "ftp://host", "http://127.0.0.1:8086"),
        ("URL", "http://", "a host"),
        ("URL", "http:///path", "a host"),
        ("URL", "http://host:99999", "out of range"),
        ("URL", "http://host:port", "cast to integer"),
        ("URL", "http://user:pass@host", "METRICLOG_TOKEN"),
        ("GRAFANA_URL", "grafana", "must be like"),
        ("MODE", "on", "'online', 'offline' or 'disabled'"),
        ("CONNECT_TIMEOUT_S", "0", "greater than 0"),
        ("READ_TIMEOUT_S", "-1", "greater than 0"),
        ("EXIT_TIMEOUT_S", "soon", "valid number"),
        ("BATCH_MAX_POINTS", "0", "greater than or equal to 1"),
        ("BATCH_MAX_POINTS", "1000000", "less than or equal to 200000"),
        ("SEGMENT_BYTES", "1000", "greater than or equal to 65536"),
        ("VERIFY_TLS", "perhaps", "boolean"),
    ],
)
def test_a_wrong_value_names_its_variable_and_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, says: str
) -> None:
    monkeypatch.setenv(f"METRICLOG_{name}", text)
    with pytest.raises(SettingsError) as caught:
        Settings.load()
    assert str(caught.value).startswith(f"METRICLOG_{name}: ")
    assert says in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_several_wrong_values_are_all_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METRICLOG_URL", "nonsense")
    monkeypatch.setenv("METRICLOG_HEARTBEAT_S", "-3")
    with pytest.raises(SettingsError, match=r"METRICLOG_URL: .*; METRICLOG_HEARTBEAT_S: "):
        Settings.load()


def test_a_field_that_does_not_exist_is_refused() -> None:
    with pytest.raises(SettingsError, match="METRICLOG_TOKN"):
        Settings.load(tokn=SECRET)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "METRICLOG_URL"),
        ({"url": "http://h"}, "METRICLOG_TOKEN_FILE"),
        ({"url": "http://h", "token": ""}, "METRICLOG_TOKEN_FILE"),
    ],
)
def test_going_online_without_a_server_or_a_token_says_what_to_set(given: Any, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        Settings.load(**given).check_online()


def test_going_online_with_both_is_fine(tmp_path: Path) -> None:
    Settings.load(url="http://h", token=SECRET).check_online()
    Settings.load(url="http://h", token_file=tmp_path / "not-there-yet").check_online()


# -- the token ----------------------------------------------------------------------------------------------------


def test_the_token_shows_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METRICLOG_TOKEN", SECRET)
    settings = Settings.load(url="http://h")
    assert settings.read_token() == SECRET
    shown = [
        repr(settings),
        str(settings),
        settings.model_dump_json(),
        repr(settings.model_dump()),
        f"{settings.token}",
    ]
    assert [text for text in shown if SECRET in text] == []


@pytest.mark.parametrize("wrong", [{"url": SECRET}, {"mode": SECRET}, {"heartbeat_s": SECRET}, {SECRET[:6]: SECRET}])
def test_a_token_in_the_wrong_place_is_not_repeated_in_the_error(wrong: Any) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.load(token=SECRET, **wrong)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(ValidationError) as direct:
        Settings(token=SecretStr(SECRET), **wrong)
    assert SECRET not in str(direct.value)


@pytest.mark.parametrize("token", [f"{SECRET}\n", f"{SECRET}\r\nX-Evil: 1", f"{SECRET}é", f"\x00{SECRET}"])
def test_a_token_that_no_header_can_carry_is_refused_without_showing_it(token: str) -> None:
    with pytest.raises(SettingsError, match="copy it again") as caught:
        Settings.load(token=token).read_token()
    assert SECRET not in str(caught.value)


def test_a_token_file_is_read_again_at_each_question_and_wins_over_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "token"
    path.write_text("first\n")
    monkeypatch.setenv("METRICLOG_TOKEN", SECRET)
    monkeypatch.setenv("METRICLOG_TOKEN_FILE", str(path))
    settings = Settings.load()
    assert settings.read_token() == "first"
    path.write_text("  second \n\n")
    assert settings.read_token() == "second"


@pytest.mark.parametrize(("content", "says"), [(None, "cannot be read"), (b"", "is empty"), (b"\n", "is empty")])
def test_a_token_file_that_holds_none_is_named(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=rf"METRICLOG_TOKEN_FILE .*token {says}"):
        Settings.load(token_file=path).read_token()


def test_a_token_file_that_is_no_text_is_named_without_showing_it(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_bytes(SECRET.encode() + b"\xff")
    with pytest.raises(SettingsError, match="METRICLOG_TOKEN_FILE") as caught:
        Settings.load(token_file=path).read_token()
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_settings_cross_processes(tmp_path: Path) -> None:
    settings = Settings.load(url="http://h", token=SECRET, dir=tmp_path)
    again = pickle.loads(pickle.dumps(settings))
    assert again == settings
    assert again.read_token() == SECRET


def test_every_field_says_what_it_is_for() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []
