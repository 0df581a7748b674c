"""nginx and Caddy before a server, with the files of deploy/; the socket, TLS, CORS and names by themselves."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
ASK = {
    "model": "demo:assistant",
    "stream": True,
    "temperature": 0,
    "messages": [{"role": "user", "content": "Hello!"}],
}


@contextlib.contextmanager
def serving(*flags: str, log: Path, num_files: int = 0) -> Iterator[subprocess.Popen[Any]]:
    """A server that is ready. What it says is in `log`. `num_files`: so many may it open."""
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "tripos", "serve", *flags],
            cwd="/",
            stderr=errors,
            preexec_fn=(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (num_files,) * 2)) if num_files else None,
        )
        try:
            wait_until(lambda: "listening on " in log.read_text() or process.poll() is not None)
            assert process.poll() is None, log.read_text()
            yield process
        finally:
            process.terminate()
            process.wait(timeout=30)


def wait_until(is_so: Any, seconds: float = 60) -> None:
    end_s = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end_s
        time.sleep(0.05)


def address_in(log: Path) -> tuple[str, int]:
    host, port = re.findall(r"listening on https?://([\d.]+):(\d+)", log.read_text())[0]
    return host, int(port)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


def ask(connection: http.client.HTTPConnection, **headers: str) -> tuple[int, str, int]:
    """Status, text of the answer, and in how many pieces it came; then the connection is closed."""
    with contextlib.closing(connection):
        return ask_again(connection, **headers)


def ask_again(connection: http.client.HTTPConnection, **headers: str) -> tuple[int, str, int]:
    """As ask, and the connection stays open."""
    connection.request("POST", "/v1/chat/completions", json.dumps(ASK), {"content-type": "application/json", **headers})
    response = connection.getresponse()
    if response.status != 200:
        return response.status, response.read().decode(), 0
    pieces = []
    while piece := response.read1(65536):
        pieces.append(piece)
    lines = b"".join(pieces).decode().splitlines()
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    return (
        200,
        "".join(choice["delta"].get("content", "") for each in chunks for choice in each["choices"]),
        len(pieces),
    )


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl")
    folder = tmp_path_factory.mktemp("tls")
    return make_certificate(folder, "first")


def make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    cert, key = folder / f"{name}.crt", folder / f"{name}.key"
    command = [
        "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-keyout", str(key),
        "-out", str(cert), "-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:tripos.example.com,IP:127.0.0.1",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


def test_nginx_streams_and_tells_who_asks(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if nginx is None:
        pytest.skip("needs nginx")
    path, port, log = tmp_path / "tripos.sock", free_port(), tmp_path / "log"
    site = (ROOT / "deploy/nginx.conf").read_text()
    for before, after in (
        ("unix:/run/tripos/tripos.sock", f"unix:{path}"),
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("/etc/ssl/tripos.crt", str(certificate[0])),
        ("/etc/ssl/tripos.key", str(certificate[1])),
    ):
        assert before in site
        site = site.replace(before, after)
    temporary = "".join(
        f"{name}_temp_path {tmp_path}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = tmp_path / "nginx.conf"
    user = "user root;\n" if os.geteuid() == 0 else ""
    config.write_text(
        f"{user}daemon off; pid {tmp_path}/pid; error_log stderr;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{temporary}{site}}}\n"
    )
    with (
        serving("--unix-socket", str(path), "--trusted-proxies", "unix", log=log),
        running([nginx, "-p", str(tmp_path), "-c", str(config)], port),
    ):
        context = ssl.create_default_context(cafile=str(certificate[0]))
        connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=30)
        check_proxied(connection, log)


def test_caddy_streams_and_tells_who_asks(tmp_path: Path) -> None:
    caddy = shutil.which("caddy")
    if caddy is None:
        pytest.skip("needs caddy")
    path, port, log = tmp_path / "tripos.sock", free_port(), tmp_path / "log"
    site = (ROOT / "deploy/Caddyfile").read_text()
    for before, after in (
        ("unix//run/tripos/tripos.sock", f"unix/{path}"),
        ("\ntripos.example.com {", f"\nhttp://tripos.example.com:{port} {{\n\tbind 127.0.0.1"),
    ):
        assert before in site
        site = site.replace(before, after)
    config = tmp_path / "Caddyfile"
    config.write_text("{\n\tadmin off\n}\n" + site)
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "XDG_DATA_HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path),
    }
    command = [caddy, "run", "--config", str(config), "--adapter", "caddyfile"]
    with (
        serving("--unix-socket", str(path), "--trusted-proxies", "unix", log=log),
        running(command, port, environment),
    ):
        check_proxied(http.client.HTTPConnection("127.0.0.1", port, timeout=30), log)


@contextlib.contextmanager
def running(command: list[str], port: int, environment: dict[str, str] | None = None) -> Iterator[None]:
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: is_open(port) or process.poll() is not None)
        assert process.poll() is None, process.stderr and process.stderr.read()
        yield
    finally:
        process.terminate()
        process.communicate(timeout=30)


def is_open(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def check_proxied(connection: http.client.HTTPConnection, log: Path) -> None:
    """Answers come in pieces under the outer name, twice on a connection, and the log has the client's address."""
    for _ in range(2):
        status, text, num_pieces = ask_again(connection, host="tripos.example.com")
        assert (status, text) == (200, "Hello! How can I help you?")
        assert num_pieces > 1
    connection.close()
    wait_until(lambda: log.read_text().count("127.0.0.1") >= 2)


def test_a_socket_is_taken_over_from_the_dead_only_and_leaves_nothing(tmp_path: Path) -> None:
    path, log = tmp_path / "tripos.sock", tmp_path / "log"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))  # and nobody listens
    with serving("--unix-socket", str(path), log=log):
        assert path.stat().st_mode & 0o777 == 0o660
        connection = http.client.HTTPConnection("localhost", timeout=30)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(path))
        assert ask(connection, host="anything.example")[0] == 200
        connection.close()
        (tmp_path / "tripos.toml").write_text('[server]\nunix_socket = "tripos.sock"\n')
        listing = [sys.executable, "-m", "tripos", "models", "list"]
        for command, folder in ((listing, tmp_path), ([*listing[:4], "--url", f"unix:{path}", "list"], Path("/"))):
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
            assert "demo:assistant" in done.stdout, done.stderr
        command = [sys.executable, "-m", "tripos", "serve", "--unix-socket", str(path)]
        second = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=60)
        assert second.returncode == 3
        assert "in use" in second.stderr
    assert not path.exists()


def test_tls_is_spoken_and_a_new_certificate_is_taken_up(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    cert, key, log = tmp_path / "cert.pem", tmp_path / "key.pem", tmp_path / "log"
    for source, target in zip(certificate, (cert, key), strict=True):
        shutil.copy(source, target)
    with serving("--port", "0", "--tls-cert", str(cert), "--tls-key", str(key), log=log) as process:
        host, port = address_in(log)
        context = ssl.create_default_context(cafile=str(cert))
        status, text, _ = ask(http.client.HTTPSConnection(host, port, context=context, timeout=30))
        assert (status, text) == (200, "Hello! How can I help you?")
        refused = http.client.HTTPSConnection(host, port, context=context, timeout=30)
        refused.request("POST", "/v1/chat/completions", b"x" * 100_000, {"content-length": "100000000000"})
        assert refused.getresponse().status == 413
        refused.close()
        with pytest.raises((http.client.HTTPException, OSError)):
            ask(http.client.HTTPConnection(host, port, timeout=30))
        listing = [sys.executable, "-m", "tripos", "models", "--url", f"https://{host}:{port}", "list"]
        for variables, status, words in (
            ({}, 3, "is not trusted"),
            ({"SSL_CERT_FILE": str(cert)}, 0, "demo:assistant"),
        ):
            done = subprocess.run(
                listing, cwd="/", env={**os.environ, **variables}, capture_output=True, text=True, timeout=60
            )
            assert (done.returncode, words in done.stdout + done.stderr) == (status, True), done.stderr
        old = ssl.get_server_certificate((host, port))
        for source, target in zip(make_certificate(tmp_path, "second"), (cert, key), strict=True):
            os.replace(source, target)
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: ssl.get_server_certificate((host, port)) != old)
        cert.write_text("nothing")
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: "the certificate is the old one" in log.read_text())
        assert ssl.get_server_certificate((host, port)) != old
        for source, target in zip(certificate, (cert, key), strict=True):
            shutil.copy(source, target)
        asked = http.client.HTTPSConnection(host, port, context=ssl._create_unverified_context(), timeout=30)
        asked.request("POST", "/admin/reread", b"{}", {"content-type": "application/json"})
        assert json.load(asked.getresponse())["certificate"] == "read again"
        assert ssl.get_server_certificate((host, port)) == old
        asked.close()


def test_a_certificate_that_became_a_pipe_stops_nobody(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    cert, log = tmp_path / "both.pem", tmp_path / "log"
    cert.write_bytes(b"".join(each.read_bytes() for each in certificate))
    with serving("--port", "0", "--tls-cert", str(cert), log=log) as process:
        cert.unlink()
        os.mkfifo(cert)
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: "the certificate is the old one" in log.read_text())
        context = ssl._create_unverified_context()
        assert ask(http.client.HTTPSConnection(*address_in(log), context=context, timeout=30))[0] == 200


def test_a_certificate_that_became_a_pipe_is_refused_and_nobody_waits(
    tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    cert, key, log = tmp_path / "cert", tmp_path / "key", tmp_path / "log"
    shutil.copy(certificate[0], cert)
    shutil.copy(certificate[1], key)
    with serving("--port", "0", "--tls-cert", str(cert), "--tls-key", str(key), log=log) as process:
        cert.unlink()
        os.mkfifo(cert)
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: "it is a named pipe (FIFO), expected a regular file" in log.read_text(), 10)
        context = ssl._create_unverified_context()
        with contextlib.closing(http.client.HTTPSConnection(*address_in(log), timeout=10, context=context)) as client:
            assert ask(client)[0] == 200


def test_who_connects_and_does_not_speak_tls_leaves_room_for_probes(
    tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    cert, key = certificate
    log = tmp_path / "log"
    with serving("--port", "0", "--tls-cert", str(cert), "--tls-key", str(key), log=log, num_files=192) as process:
        address = address_in(log)
        context = ssl._create_unverified_context()
        with contextlib.ExitStack() as silent:
            for _ in range(250):
                silent.enter_context(socket.create_connection(address, timeout=5))
            files = Path(f"/proc/{process.pid}/fd")
            wait_until(lambda: len(list(files.iterdir())) > 100)
            for path, status in (("/livez", 200), ("/readyz", 200), ("/v1/models", 503)):
                with contextlib.closing(http.client.HTTPSConnection(*address, timeout=10, context=context)) as client:
                    client.request("GET", path)
                    assert client.getresponse().status == status
        wait_until(lambda: len(list(files.iterdir())) < 50)
        with contextlib.closing(http.client.HTTPSConnection(*address, timeout=10, context=context)) as client:
            assert ask(client)[0] == 200
        assert "Traceback" not in log.read_text()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--tls-key", "key"), "--tls-key needs --tls-cert"),
        (("--tls-cert", "/no/such/file"), "/no/such/file cannot be read: No such file"),
        (("--tls-cert", "/dev/zero"), "/dev/zero cannot be read: it is a device, expected a regular file"),
        (("--allowed-hosts", "http://a"), "a name without port"),
        (("--cors-origins", "a.example"), "an origin"),
        (("--trusted-proxies", "10.0.0.1/8"), "not an address, a network"),
        (("--unix-socket", "/no/such/folder/s"), "No such file"),
    ],
)
def test_a_door_that_cannot_be_is_refused_by_name(flags: tuple[str, ...], words: str) -> None:
    command = [sys.executable, "-m", "tripos", "serve", *flags]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=60)
    assert done.returncode in (2, 3)
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_pages_and_names_that_are_allowed(tmp_path: Path) -> None:
    log, page = tmp_path / "log", "https://app.example"
    keys = tmp_path / "keys"
    keys.write_text("k" * 32 + "\n")
    keys.chmod(0o600)
    flags = ("--allowed-hosts", "api.example,b.example", "--cors-origins", page, "--api-key-file", str(keys))
    with serving("--port", "0", *flags, log=log):
        host, port = address_in(log)
        key = {"authorization": "Bearer " + "k" * 32}
        status, text, _ = ask(http.client.HTTPConnection(host, port), **key, host="api.example:8443")
        assert (status, text) == (200, "Hello! How can I help you?")
        status, text, _ = ask(http.client.HTTPConnection(host, port), **key, host="c.example")
        assert status == 421
        assert "--allowed-hosts" in text
        assert ask(http.client.HTTPConnection(host, port), **key, host="localhostx")[0] == 421
        asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
        for origin, status in ((page, 200), ("https://evil.example", 405)):
            connection = http.client.HTTPConnection(host, port)
            connection.request("OPTIONS", "/v1/chat/completions", headers={"origin": origin, **asked})
            response = connection.getresponse()
            response.read()
            assert response.status in (status, 401, 404) if status != 200 else response.status == 200
            allowed = response.getheader("access-control-allow-origin")
            assert allowed == (page if origin == page else None)
            assert ("authorization" in (response.getheader("access-control-allow-headers") or "")) is (origin == page)
            connection.close()
        connection = http.client.HTTPConnection(host, port)
        connection.request("GET", "/v1/models", headers={"origin": page})  # no key: the page may read why not
        response = connection.getresponse()
        assert (response.status, response.getheader("access-control-allow-origin")) == (401, page)
        response.read()
        connection.close()


def test_clients_that_never_finish_a_handshake_take_no_more_places_than_others(
    tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    log = tmp_path / "log"
    flags = ("--tls-cert", str(certificate[0]), "--tls-key", str(certificate[1]), "--max-connections", "8")
    with contextlib.ExitStack() as silent, serving("--port", "0", *flags, log=log):
        host, port = address_in(log)
        clients = [silent.enter_context(socket.create_connection((host, port))) for _ in range(60)]
        wait_until(lambda: num_closed(clients) >= 60 - 8 - 32, seconds=20)  # inside, and waiting outside
        wait_until(lambda: num_closed(clients) == 60, seconds=40)  # a handshake has its time
        context = ssl.create_default_context(cafile=str(certificate[0]))
        for _ in range(30):  # more than may be inside at once: each leaves its place
            assert ask(http.client.HTTPSConnection(host, port, context=context, timeout=30))[0] == 200
    assert "Traceback" not in log.read_text()


def num_closed(clients: list[socket.socket]) -> int:
    found = 0
    for client in clients:
        client.setblocking(False)
        try:
            found += client.recv(1) == b""
        except BlockingIOError:
            continue
        except OSError:
            found += 1
    return found
