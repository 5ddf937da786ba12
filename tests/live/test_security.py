"""Secrets stay secret, files private, certificates checked; and nothing that a server says is trusted."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import ssl
import stat
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

import metriclog
from metriclog import directory, quarantine, reader
from metriclog.acks import load_ack
from metriclog.errors import RejectedError, ServerError, TransientError
from metriclog.segments import segment_name
from metriclog.settings import Settings
from metriclog.transport import Transport
from tests.commands import metriclog as command
from tests.faults.loads import EXPERIMENT, address, log_step, python
from tests.faults.proxy import Exchange, FaultProxy, says
from tests.faults.shipping import check_all_delivered, log_offline, settings_of, ship, try_to_ship
from tests.servers.api import Influx

LIMIT_S = 30.0
SECRET = "s3cr3t-t0ken-that-nobody-may-see"


@pytest.fixture
def proxy(influx: Influx) -> Iterator[FaultProxy]:
    with FaultProxy(influx.url) as between:
        yield between


# -- the token --------------------------------------------------------------------------------------------------


class Overheard:
    """Everything that was said where somebody could see it."""

    def __init__(self) -> None:
        self._said = io.StringIO()

    def add(self, *words: object) -> None:
        """Take in words, and what an exception tells with its causes."""
        for word in words:
            if isinstance(word, BaseException):
                self._said.write("".join(traceback.format_exception(word)) + repr(word.args) + repr(vars(word)))
            else:
                self._said.write(f"{word} {word!r}\n")

    def check(self, folder: Path, *secrets: str) -> None:
        """None of the secrets was said, nor is it in a file."""
        for secret in secrets:
            assert secret not in self._said.getvalue()
            for path in folder.rglob("*"):
                assert not path.is_file() or secret.encode() not in path.read_bytes(), path
                assert secret not in str(path)


def repeats_the_request(exchange: Exchange) -> None:
    """A helpful server: its error page shows the whole request, token and all."""
    exchange.read()
    exchange.say(500, b"<pre>" + exchange.head + b"</pre>", content_type="text/html")


def test_the_token_is_in_no_file_log_error_repr_or_output(
    influx: Influx, proxy: FaultProxy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    heard = Overheard()
    folder = tmp_path / "journal"
    influx.write(f"metrics,experiment=x,run=foreign,metric=m nonfinite=0.5 {time.time_ns()}")
    for token, faults in ((SECRET, []), (influx.token, [repeats_the_request, says(422, b"partial write"), says(503)])):
        settings = settings_of(influx, folder, proxy.url, token=token, read_timeout_s=LIMIT_S)
        proxy.play(*faults)
        run = metriclog.init(EXPERIMENT, settings=settings)
        for step in range(50):
            heard.add(log_step(run, step))
        run.flush(1.0)
        heard.add(run, run.stats(), settings, settings.model_dump(), Transport(settings), vars(Transport(settings)))
        run.finish(timeout_s=1.0)
        try:
            reader.open_server(settings).runs()
        except metriclog.MetriclogError as error:
            heard.add(error)
        where = {**address(influx, folder), "url": proxy.url, "token": token}
        proxy.play(*faults)
        for arguments in (
            "sync --give-up-after-s 1",
            "status",
            "status --json",
            "quarantine show",
            "quarantine requeue",
        ):
            heard.add(*command(*arguments.split(), **where))
        heard.add(*command("verify", run.run_id, **where), *command("runs", "--server", **where))
    heard.add(caplog.text, *[vars(record) for record in caplog.records])
    heard.check(tmp_path, SECRET, influx.token)
    assert "***" in caplog.text, "the server did repeat the request, and the token was struck out"
    assert list(folder.rglob("quarantine-*")), "nothing went into quarantine, so nothing was shown of it"


def test_the_token_is_not_sent_to_whom_it_is_not_meant_for(influx: Influx, proxy: FaultProxy, tmp_path: Path) -> None:
    settings = settings_of(influx, tmp_path / "journal", proxy.url)
    target = Transport(settings)
    heads: list[bytes] = []

    def listen(exchange: Exchange) -> None:
        heads.append(exchange.head)
        exchange.say(204)

    proxy.always, proxy.everything = listen, True
    assert target.healthy()
    target.close()
    assert heads
    assert not any(influx.token.encode() in head for head in heads), "/health needs no token"


@pytest.mark.parametrize("token", ["two\nlines", "nul\0", "snow\u2603", "tab\there"])
def test_a_token_that_could_forge_a_header_is_refused_without_being_shown(tmp_path: Path, token: str) -> None:
    target = Transport(Settings(url="http://127.0.0.1:1", token=token))  # type: ignore[arg-type]
    with pytest.raises(RejectedError, match="no HTTP header can carry") as caught:
        target.write(b"m v=1 1\n")
    assert token not in "".join(traceback.format_exception(caught.value))


# -- files ------------------------------------------------------------------------------------------------------


def test_directories_and_files_of_a_journal_are_for_their_user_alone(influx: Influx, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        influx.write(f"metrics,experiment=x,run=foreign,metric=m nonfinite=0.5 {time.time_ns()}")
        settings = settings_of(influx, tmp_path / "journal", read_timeout_s=LIMIT_S)
        log_offline(settings, range(100))
        (folder,) = directory.process_directories(settings.dir)
        segment = folder / segment_name(1)
        body = bytearray(segment.read_bytes())
        body[len(body) // 2] ^= 1
        segment.write_bytes(bytes(body))
        try_to_ship(settings.model_copy(update={"url": "http://127.0.0.1:1"}), patience_s=1.0)
        ship(settings)
        target = Transport(settings).target
        quarantine.add(folder, target, quarantine.load(folder, target)[:3], "dropped")
        away = {**address(influx, settings.dir), "url": "http://127.0.0.1:1"}
        command("sync", "--give-up-after-s", "0", **away)
        with metriclog.init(EXPERIMENT, run_id="live", settings=settings) as run:
            log_step(run, 0)
            check_modes(settings.dir)
    finally:
        os.umask(before)
    found = {path.name.split("-")[0] for path in folder.iterdir()}
    assert found >= {"ack", "quarantine", "dropped", "damaged", "owner.lock", "ship"}
    check_modes(settings.dir)


def check_modes(root: Path) -> None:
    """0700 for every directory, 0600 for every file."""
    for path in (root, *root.rglob("*")):
        with contextlib.suppress(FileNotFoundError):  # a live run replaces its small files
            mode = stat.S_IMODE(path.stat().st_mode)
            assert mode == (0o700 if path.is_dir() else 0o600), f"{path}: {mode:o}"


# -- TLS and proxies --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate for 127.0.0.1 that it signed itself, and one for another address."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    for name, address_ in (("here", "127.0.0.1"), ("elsewhere", "127.0.0.9")):
        files = ["-keyout", f"{name}.key", "-out", f"{name}.crt"]
        who = ["-days", "2", "-subj", "/CN=test", "-addext", f"subjectAltName=IP:{address_}"]
        make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *files, *who]
        subprocess.run(make, cwd=folder, check=True, capture_output=True, timeout=60.0)
    return folder


def tls(folder: Path, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / f"{name}.crt", folder / f"{name}.key")
    return context


def test_a_certificate_that_nobody_vouches_for_gets_neither_points_nor_token_until_it_is_trusted(
    influx: Influx, certificate: Path, tmp_path: Path
) -> None:
    with FaultProxy(influx.url, tls=tls(certificate, "here")) as proxy:
        settings = settings_of(influx, tmp_path / "journal", proxy.url, read_timeout_s=LIMIT_S)
        accepted = log_offline(settings, range(100))
        error, _ = try_to_ship(settings)
        assert isinstance(error, RejectedError)
        assert "CERTIFICATE_VERIFY_FAILED" in str(error)
        assert "METRICLOG_CA_FILE" in str(error)
        assert not Transport(settings).healthy()
        assert proxy.paths == []
        trusting = settings.model_copy(update={"ca_file": certificate / "here.crt"})
        assert ship(trusting).retried == 0
        check_all_delivered(accepted, trusting, influx)


def test_a_trusted_certificate_for_another_address_is_refused(
    influx: Influx, certificate: Path, tmp_path: Path
) -> None:
    with FaultProxy(influx.url, tls=tls(certificate, "elsewhere")) as proxy:
        trust = {"ca_file": certificate / "elsewhere.crt"}
        settings = settings_of(influx, tmp_path / "journal", proxy.url).model_copy(update=trust)
        log_offline(settings, range(10))
        error, _ = try_to_ship(settings)
        assert isinstance(error, RejectedError)
        assert proxy.paths == []


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
def test_without_the_check_of_certificates_any_is_good(influx: Influx, certificate: Path, tmp_path: Path) -> None:
    with FaultProxy(influx.url, tls=tls(certificate, "elsewhere")) as proxy:
        blind = {"verify_tls": False, "read_timeout_s": LIMIT_S}
        settings = settings_of(influx, tmp_path / "journal", proxy.url).model_copy(update=blind)
        accepted = log_offline(settings, range(10))
        ship(settings)
        check_all_delivered(accepted, settings, influx)


def test_plain_http_where_tls_is_spoken_and_the_other_way_round_may_pass(
    influx: Influx, proxy: FaultProxy, certificate: Path, tmp_path: Path
) -> None:
    """A proxy that is being set up: kept and retried."""
    with FaultProxy(influx.url, tls=tls(certificate, "here")) as secure:
        for url in (secure.url.replace("https", "http"), proxy.url.replace("http", "https")):
            target = Transport(Settings(url=url, token=SECRET, read_timeout_s=2.0))  # type: ignore[arg-type]
            with pytest.raises(TransientError):
                target.write(b"m v=1 1\n")
            target.close()


def test_the_proxy_setting_is_used_and_those_of_the_surroundings_are_not(
    influx: Influx, proxy: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    through = settings_of(influx, tmp_path / "a", "http://no-such-host.invalid:8086", read_timeout_s=LIMIT_S)
    through = through.model_copy(update={"proxy": proxy.url})
    accepted = log_offline(through, range(100))
    ship(through)
    check_all_delivered(accepted, through, influx)
    assert proxy.paths
    assert all(path.startswith("http://no-such-host.invalid:8086/api/v2/write") for path in proxy.paths)
    influx.delete_bucket()
    influx.create_bucket()
    direct = settings_of(influx, tmp_path / "b", read_timeout_s=LIMIT_S)
    accepted = log_offline(direct, range(100))
    ship(direct)
    check_all_delivered(accepted, direct, influx)


# -- what a server says -----------------------------------------------------------------------------------------

NASTY = (
    b'{"message":"\x1b]0;title\x07\x1b[2J [red]x[/red] \\u202egpj.exe \\u0000\\r\\n:boom: <script>alert(1)</script>"}'
)


@pytest.mark.parametrize("status", [400, 401, 422, 500])
def test_what_a_server_says_reaches_log_status_and_quarantine_without_control_characters(
    influx: Influx, proxy: FaultProxy, tmp_path: Path, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    settings = settings_of(influx, tmp_path / "journal", proxy.url, read_timeout_s=LIMIT_S)
    log_offline(settings, range(3))
    where = {**address(influx, settings.dir), "url": proxy.url}
    proxy.always = says(status, NASTY, content_type="application/json")
    said = [command("sync", "--give-up-after-s", "0", **where), command("status", **where)]
    said.append(command("quarantine", "show", **where))
    text = "".join(out + err for _, out, err in said)
    assert "[red]x[/red]" in text
    assert "<script>alert(1)</script>" in text
    for words in (text.replace("\n", ""), *(record.getMessage() for record in caplog.records)):
        assert words.isprintable()


def test_an_error_that_is_no_json_does_not_set_up_the_logging_of_the_program() -> None:
    """influxdb_client by itself calls `logging.debug` then, which gives the root logger a handler."""
    script = """
    import logging
    from metriclog.settings import Settings
    from metriclog.transport import Transport
    from tests.servers.scripted import says, serving
    with serving(says(503, b"<html>")) as server:
        try:
            Transport(Settings(url=server.url, token="t")).write(b"m v=1 1\\n")
        except Exception as error:
            print(type(error).__name__, logging.getLogger().handlers)
    """
    done = python(script)
    assert (done.stdout, done.stderr) == ("TransientError []\n", "")


# -- nothing listens --------------------------------------------------------------------------------------------

LISTENS = """
    import os, metriclog
    from pathlib import Path
    run = metriclog.init("exp", rank=0)
    run.log({"loss": 0.5})
    run.flush(10.0)
    links = [Path("/proc/self/fd") / fd for fd in os.listdir("/proc/self/fd")]
    mine = {os.readlink(link) for link in links if link.is_symlink()}
    for name in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/self/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if f"socket:[{fields[9]}]" in mine and (fields[3] == "0A" or name.startswith("udp")):
                print("listens at", fields[1])
    print(run.stats()["delivered"] > 0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_nothing_listens(influx: Influx, tmp_path: Path) -> None:
    done = python(LISTENS, **address(influx, tmp_path / "journal"))
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


def test_a_server_that_says_no_to_everything_moves_no_ack(influx: Influx, proxy: FaultProxy, tmp_path: Path) -> None:
    settings = settings_of(influx, tmp_path / "journal", proxy.url)
    log_offline(settings, range(10))
    for status in (400, 401, 403, 404, 405, 413, 415, 418, 500, 501, 599):
        proxy.always = says(status, b"no")
        error, _ = try_to_ship(settings, patience_s=10.0)
        assert isinstance(error, ServerError)
    (folder,) = directory.process_directories(settings.dir)
    assert load_ack(folder, Transport(settings).target).position == 0
