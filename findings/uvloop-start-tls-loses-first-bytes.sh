#!/usr/bin/env bash
# uvloop 0.23.0: a server that upgrades what it accepts with loop.start_tls, in a task made by connection_made, ends no
# handshake whose client speaks at once: uvloop begins to read before the task runs, and gives the client's first bytes to
# the old protocol. asyncio's own loop runs the task first, and every handshake ends.
# Seen: "asyncio: 3 of 3 handshakes ended", "uvloop: 0 of 3 handshakes ended".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --only-binary :all: 'uvloop==0.23.0' 'trustme==1.2.1'
cat > "$folder/seen.py" <<'PYTHON'
import asyncio
import socket
import ssl

import trustme
import uvloop

authority, ours = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
authority.issue_cert("localhost").configure_cert(ours)
theirs = ssl.create_default_context()
authority.configure_trust(theirs)


class Upgrading(asyncio.Protocol):
    def connection_made(self, transport):
        self.task = asyncio.get_running_loop().create_task(self.upgrade(transport))

    async def upgrade(self, transport):
        loop = asyncio.get_running_loop()
        try:
            await loop.start_tls(transport, self, ours, server_side=True, ssl_handshake_timeout=3)
        except OSError as error:
            print("  the server:", type(error).__name__)


def speak_first(listener):
    """A client whose first bytes are there before it is accepted."""
    raw = socket.create_connection(listener.getsockname(), timeout=5)
    client = theirs.wrap_socket(raw, server_hostname="localhost", do_handshake_on_connect=False)
    client.setblocking(False)
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        client.settimeout(5)
    return client


def shakes_hands(client):
    try:
        with client:
            client.do_handshake()
            return True
    except OSError as error:
        print("  the client:", type(error).__name__)
        return False


async def main():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        clients = [speak_first(listener) for _ in range(3)]
        await asyncio.get_running_loop().create_server(Upgrading, sock=listener)
        return await asyncio.gather(*(asyncio.to_thread(shakes_hands, client) for client in clients))


for name, run, expected in (("asyncio", asyncio.run, 3), ("uvloop", uvloop.run, 0)):
    ended = sum(run(main()))
    print(f"{name}: {ended} of 3 handshakes ended")
    assert ended == expected, "this is no longer so"
PYTHON
"$folder/venv/bin/python" "$folder/seen.py"
