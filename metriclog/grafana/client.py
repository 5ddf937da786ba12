"""The only file that talks to a Grafana: dashboards, a folder, the data source. What it refuses becomes a GrafanaError.

A token goes to the address that was given and nowhere else: redirects are not followed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import urllib3

from metriclog.errors import GrafanaError, SettingsError, UsageError
from metriclog.settings import Settings

MAX_SAID_CHARS = 300  # of Grafana's words in a message
MAX_ANSWER_BYTES = 32 << 20  # whoever sends it

_MAKE_ONE = "Grafana makes one at Administration > Users and access > Service accounts"
_ADVICE = {
    403: "The token's service account needs the role Viewer for --check, Editor for --apply, and Admin to add the data "
    "source; Grafana takes up to a minute to notice new rights",
    404: "Is METRICLOG_GRAFANA_URL (--url) the address of Grafana, with its path if it has one?",
}
_NOT_ABOUT_THE_TOKEN = frozenset(range(300, 600)) - {401}


@dataclass(frozen=True)
class Stored:
    """A dashboard as Grafana has it."""

    dashboard: dict[str, Any]
    folder_uid: str
    file_managed: bool
    """Read from a file by Grafana, which then refuses to save it."""


class Grafana:
    """One Grafana, by the settings `grafana_url` and `grafana_token`. Every method may raise `GrafanaError`."""

    def __init__(self, settings: Settings) -> None:
        if settings.grafana_url is None:
            raise UsageError("which Grafana? Give --url or set METRICLOG_GRAFANA_URL, e.g. http://127.0.0.1:3000")
        self.address = settings.grafana_url
        self._token = settings.read_grafana_token()
        self._timeout = urllib3.Timeout(connect=settings.connect_timeout_s, read=settings.read_timeout_s)
        self._pool = _pool(settings)

    def version(self) -> str:
        """Its version, "" if it does not tell; raises where something else than a Grafana answers."""
        answer = self._ask("GET", "/api/health", "find Grafana")
        if not (isinstance(answer, dict) and "database" in answer):
            raise self._no_grafana()
        return str(answer.get("version", ""))

    def check_token(self) -> None:
        """Raise for a wrong token: a Grafana that lets in anybody passes over it in silence."""
        if self._token:
            self._ask("GET", "/api/user", "take the token", absent=_NOT_ABOUT_THE_TOKEN)

    def dashboard(self, uid: str) -> Stored | None:
        """The dashboard, or None if there is none."""
        found = self._ask("GET", f"/api/dashboards/uid/{quote(uid)}", f"read dashboard {uid}", absent=(404,))
        if found is None:
            return None
        try:
            meta = found["meta"]
            return Stored(dict(found["dashboard"]), meta.get("folderUid") or "", bool(meta.get("provisioned")))
        except (KeyError, TypeError, ValueError, AttributeError):
            raise self._no_grafana() from None

    def save(self, dashboard: dict[str, Any], folder_uid: str, *, overwrite: bool) -> None:
        """Put a dashboard into a folder; without `overwrite` only where there is none of its uid."""
        # Without a version Grafana compares with none: what has come up in the meantime is a conflict.
        fresh = {key: value for key, value in dashboard.items() if key not in ("id", "version")}
        body = {"dashboard": fresh, "folderUid": folder_uid, "overwrite": overwrite, "message": "metriclog provision"}
        self._ask("POST", "/api/dashboards/db", f"save dashboard {dashboard.get('uid')}", send=body)

    def ensure_folder(self, uid: str, title: str) -> None:
        """Make the folder unless it is there."""
        path, doing = f"/api/folders/{quote(uid)}", f"make the folder {title}"
        # To who may not see all folders, one that is not there is forbidden; 409 and 412 say that it is there.
        if self._ask("GET", path, doing, absent=(403, 404)) is None:
            self._ask("POST", "/api/folders", doing, send={"uid": uid, "title": title}, absent=(409, 412))

    def datasource(self, uid: str) -> dict[str, Any] | None:
        """The data source, without its secrets; None if there is none."""
        found = self._ask("GET", f"/api/datasources/uid/{quote(uid)}", f"read data source {uid}", absent=(404,))
        if found is not None and not isinstance(found, dict):
            raise self._no_grafana()
        return found

    def add_datasource(self, datasource: dict[str, Any]) -> None:
        """Add a data source; never alters one."""
        self._ask("POST", "/api/datasources", f"add data source {datasource['uid']}", send=datasource)

    def datasource_trouble(self, uid: str) -> str | None:
        """What Grafana says is wrong when it asks the data source; None if it answers well."""
        try:
            self._ask("GET", f"/api/datasources/uid/{quote(uid)}/health", f"reach data source {uid}")
        except GrafanaError as error:
            return str(error)
        return None

    def _ask(self, method: str, path: str, doing: str, *, send: Any = None, absent: Collection[int] = ()) -> Any:
        """What Grafana answers as JSON; None for a status in `absent`."""
        headers = {"Accept": "application/json", "User-Agent": "metriclog"}
        if send is not None:
            headers["Content-Type"] = "application/json"
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        try:
            answer = self._pool.request(
                method,
                f"{self.address}{path}",
                body=None if send is None else json.dumps(send).encode(),
                headers=headers,
                timeout=self._timeout,
                retries=False,
                redirect=False,
                preload_content=False,
            )
            said = answer.read(MAX_ANSWER_BYTES, decode_content=True)
            answer.release_conn()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise self._no_answer(error) from error
        if answer.status in absent:
            return None
        if answer.status != 200:
            raise self._refused(doing, answer.status, said, answer.headers.get("Location"))
        try:
            return json.loads(said)
        except ValueError:
            raise self._no_grafana() from None

    def _refused(self, doing: str, status: int, said: bytes, location: str | None) -> GrafanaError:
        if status == 401 or (status == 403 and not self._token):
            has, first = ("does not take this token", "Check") if self._token else ("wants a token", "Set")
            advice = f"{first} METRICLOG_GRAFANA_TOKEN (or --token); {_MAKE_ONE}"
            return GrafanaError(f"{self.address} {has}: {self._words(said)}. {advice}", status=status)
        advice = f"It points to {location}: give that address" if location else _ADVICE.get(status, "")
        words = f"{self.address} would not {doing} ({status}: {self._words(said)})"
        return GrafanaError(f"{words}. {advice}" if advice else words, status=status)

    def _no_grafana(self) -> GrafanaError:
        return GrafanaError(f"what answers at {self.address} is no Grafana. {_ADVICE[404]}")

    def _no_answer(self, error: Exception) -> GrafanaError:
        # urllib3 puts objects in front: "<HTTPConnection(host=…) at 0x…>: ", "HTTPConnectionPool(host=…): ".
        words = self._brief(re.sub(r"^(<[^>]*>: |\w+\(.*?\): )+", "", str(error)))
        advice = "Is Grafana running, and is METRICLOG_GRAFANA_URL (--url) its address?"
        if "CERTIFICATE_VERIFY_FAILED" in words:
            advice = "METRICLOG_CA_FILE can name the authority to trust"
        return GrafanaError(f"no answer from {self.address}: {words}. {advice}")

    def _words(self, said: bytes) -> str:
        """What an answer says: its message, else how it begins; of a page nothing."""
        text = said.decode(errors="replace").strip()
        try:
            message = json.loads(text)["message"]
        except (ValueError, KeyError, TypeError):
            message = "a page of HTML" if text.startswith("<") else text
        return self._brief(str(message)) or "no words"

    def _brief(self, text: str) -> str:
        """One short line without the token: some servers repeat the request."""
        shown = text.replace(self._token, "***") if self._token and len(self._token) >= 8 else text
        line = " ".join("".join(char if char.isprintable() else " " for char in shown).split())
        return (line[:MAX_SAID_CHARS] + "…" if len(line) > MAX_SAID_CHARS else line).rstrip(".")


def _pool(settings: Settings) -> urllib3.PoolManager:
    """Connections with the same certificates and proxy as those to InfluxDB."""
    trust: dict[str, Any] = {"cert_reqs": "CERT_REQUIRED" if settings.verify_tls else "CERT_NONE"}
    if settings.ca_file is not None:
        trust["ca_certs"] = str(settings.ca_file)
    try:
        return urllib3.ProxyManager(settings.proxy, **trust) if settings.proxy else urllib3.PoolManager(**trust)
    except urllib3.exceptions.HTTPError as error:
        raise SettingsError(f"METRICLOG_PROXY: {error}; it must be like http://proxy.example:3128") from error
