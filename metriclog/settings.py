"""Every setting: METRICLOG_* environment variables into one frozen object. Each limit has its unit and its reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from metriclog.errors import SettingsError

Mode = Literal["online", "offline", "disabled"]


class Settings(BaseSettings):
    """What metriclog does and where. Every field can be set as METRICLOG_<NAME> in the environment.

    Raises `SettingsError` (through `load`) for a value that cannot work. The token never shows in `repr`.
    """

    model_config = SettingsConfigDict(
        env_prefix="METRICLOG_", frozen=True, extra="forbid", env_ignore_empty=True, hide_input_in_errors=True
    )

    url: str | None = Field(
        default=None, description="InfluxDB address, for example http://127.0.0.1:8086. None: offline."
    )
    token: SecretStr | None = Field(
        default=None, description="InfluxDB token with write (and, for reading, read) right."
    )
    token_file: Path | None = Field(
        default=None, description="File with the token, read again whenever the server says no."
    )
    org: str = Field(default="metriclog", description="InfluxDB organisation.")
    bucket: str = Field(default="metriclog", description="InfluxDB bucket.")
    dir: Path = Field(
        default=Path(".metriclog"), description="Where journals live, below the working directory by default."
    )
    mode: Mode | None = Field(default=None, description="online, offline or disabled. None: online if url is set.")
    grafana_url: str | None = Field(
        default="http://127.0.0.1:3000", description="Where the dashboards are, for the links we print. None: no links."
    )
    grafana_token: SecretStr | None = Field(
        default=None, description="Grafana service account token, for `metriclog provision --check` and `--apply`."
    )

    watch: bool = Field(
        default=True, description="Watch losses and gradient norms for divergence while they are logged."
    )
    alert_webhook: SecretStr | None = Field(
        default=None, description="Address that critical events are posted to: Slack, Discord, or anything (JSON)."
    )
    alert_webhook_format: Literal["auto", "slack", "discord", "json"] = Field(
        default="auto", description="Shape of such a post. auto: by the address."
    )
    alert_cooldown_s: float = Field(
        default=300.0, gt=0, description="The same trouble of the same metric is said again after so long, not before."
    )
    alert_max: int = Field(
        default=100, ge=1, description="Most alerts of one process of a run: a broken run must not flood anybody."
    )

    prometheus_port: int | None = Field(
        default=None, ge=0, le=65535, description="Where Prometheus can scrape this process. 0: any free port."
    )
    prometheus_host: str = Field(
        default="127.0.0.1", description="Address it listens on: this machine only, unless you say otherwise."
    )
    prometheus_sd_dir: Path | None = Field(
        default=None, description="Folder in which each job announces its port, for Prometheus' file_sd_configs."
    )
    prometheus_max_metrics: int = Field(
        default=1000, ge=1, description="Most metrics of a process shown to Prometheus: each one is a series there."
    )
    prometheus_linger_s: float = Field(
        default=0.0, ge=0, description="How long the end of the process may wait for a last scrape."
    )
    pushgateway_url: str | None = Field(
        default=None, description="Pushgateway that gets the same while a job runs, if it is too short to be scraped."
    )

    verify_tls: bool = Field(default=True, description="Check the server's certificate.")
    ca_file: Path | None = Field(default=None, description="CA bundle for a private certificate authority.")
    proxy: str | None = Field(default=None, repr=False, description="HTTP proxy between this process and the server.")

    connect_timeout_s: float = Field(default=2.0, gt=0, description="A host that does not answer a SYN in 2 s is away.")
    read_timeout_s: float = Field(
        default=30.0, gt=0, description="The server's own write timeout is 10 s; wait it out."
    )
    flush_interval_s: float = Field(default=1.0, gt=0, description="How often the shipper looks for new points.")
    exit_timeout_s: float = Field(
        default=5.0, ge=0, description="How long finish() and the end of the process may wait."
    )
    heartbeat_s: float = Field(
        default=15.0, gt=0, description="Four heartbeats a minute tell a dead run from a slow one."
    )
    batch_max_points: int = Field(
        default=20_000,
        ge=1,
        le=200_000,
        description="Posts of 20,000 lines are where InfluxDB 2 tops out; more costs memory.",
    )
    connections: int = Field(
        default=2, ge=1, le=16, description="Connections used at once while there is a backlog; more gain nothing here."
    )
    gzip: Literal["auto", "always", "never"] = Field(
        default="auto", description="auto: compress posts, but not to this machine itself, where that costs more."
    )
    segment_bytes: int = Field(
        default=8 << 20,
        ge=64 << 10,
        le=1 << 30,
        description="Size of one preallocated journal segment, the unit of deletion; two are in memory.",
    )
    journal_max_bytes: int = Field(
        default=8 << 30,
        ge=1 << 20,
        description="Most bytes of one process' journal: about 700 million points.",
    )
    free_floor_bytes: int = Field(
        default=256 << 20, ge=0, description="What the journal leaves free on its disk: checkpoints need room too."
    )
    journal_policy: Literal["drop_oldest", "block", "raise"] = Field(
        default="drop_oldest", description="At these limits: give up the oldest points and count them, wait, or raise."
    )
    journal_io: Literal["auto", "mmap", "buffered"] = Field(
        default="auto", description="auto: mapped, but buffered on network file systems, where kill -9 may cost 0.25 s."
    )
    retain_bytes: int = Field(
        default=1 << 30,
        ge=0,
        description="Delivered segments kept per process for reading and proof; older ones are deleted.",
    )

    @field_validator("url", "grafana_url", "pushgateway_url")
    @classmethod
    def _http_only(cls, value: str | None) -> str | None:
        value = (value or "").strip()
        if not value:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:  # .port raises if it is none
            raise ValueError("must be like http://127.0.0.1:8086: http:// or https://, a host, perhaps a port")
        if parts.username is not None:
            raise ValueError("must not hold a password, because addresses are shown; use METRICLOG_TOKEN")
        return value.rstrip("/")

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Read the environment; `overrides` win. Raises `SettingsError` that names the variable and what to do."""
        try:
            return cls(**overrides)
        except ValidationError as error:
            raise SettingsError(_explain(error)) from None

    def effective_mode(self) -> Mode:
        """The mode in force: as set, else online where a server is configured."""
        return self.mode or ("online" if self.url else "offline")

    def read_token(self) -> str | None:
        """The token in plain text: from `token_file` (read now) if set, else `token`. Raises `SettingsError`."""
        token = self.token.get_secret_value() if self.token else None
        if self.token_file is not None:
            try:
                token = self.token_file.read_text(encoding="utf-8").strip()
            except (OSError, UnicodeError) as error:
                raise SettingsError(f"METRICLOG_TOKEN_FILE {self.token_file} cannot be read: {error}") from error
            if not token:
                raise SettingsError(f"METRICLOG_TOKEN_FILE {self.token_file} is empty")
        return _for_header(token, "the token")

    def read_grafana_token(self) -> str | None:
        """Grafana's token in plain text, or None. Raises `SettingsError`."""
        token = self.grafana_token.get_secret_value().strip() if self.grafana_token else None
        return _for_header(token, "Grafana's token") or None

    def check_online(self) -> None:
        """Raise `SettingsError` if going online cannot work because url or token is missing."""
        if not self.url:
            raise SettingsError('mode="online" needs a server: set METRICLOG_URL, for example http://127.0.0.1:8086')
        if not (self.token and self.token.get_secret_value()) and self.token_file is None:
            raise SettingsError("METRICLOG_URL is set but no token: set METRICLOG_TOKEN or METRICLOG_TOKEN_FILE")


def _for_header(token: str | None, name: str) -> str | None:
    if token is not None and not (token.isascii() and token.isprintable()):
        raise SettingsError(f"{name} has line breaks or characters that no HTTP header can carry; copy it again")
    return token


def _explain(error: ValidationError) -> str:
    parts = []
    for item in error.errors(include_input=False, include_url=False):
        name = "_".join(str(part) for part in item["loc"]) or "settings"
        parts.append(f"METRICLOG_{name.upper()}: {item['msg']}")
    return "; ".join(parts)
