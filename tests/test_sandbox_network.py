"""What a box may reach: a list that the host keeps, on every layer; and what it may not."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from sandbox.blocking import BlockingBox, BlockingPool
from sandbox.errors import BoxLostError
from sandbox.proxy import Proxy, Rule, rules_of
from tests import test_sandbox

home, pool, image, layer, box = (
    test_sandbox.home, test_sandbox.pool, test_sandbox.image, test_sandbox.layer, test_sandbox.box,
)  # fmt: skip
engine = test_sandbox.engine
BIG = bytes(range(256)) * 4096

FETCH = """
import urllib.request, urllib.error, hashlib
def fetch(url, data=None, direct=False):
    handler = urllib.request.ProxyHandler({} if direct else {"http": "http://127.0.0.1:3128"})
    opener = urllib.request.build_opener(handler)
    try:
        body = opener.open(url, b"z" * data if data else None, timeout=10).read()
        return [200, body.decode() if len(body) < 1000 else hashlib.sha256(body).hexdigest()]
    except urllib.error.HTTPError as error:
        return [error.code, error.read().decode()]
    except OSError as error:
        return [0, str(error)]
"""
TUNNEL = """
import socket
def talk(target, words):
    with socket.create_connection(("127.0.0.1", 3128)) as s, s.makefile("rwb") as f:
        f.write(f"CONNECT {target} HTTP/1.1\\r\\nHost: {target}\\r\\n\\r\\n".encode()); f.flush()
        status = f.readline().decode().split()[1]
        while f.readline().strip(): pass
        if status != "200":
            return [status, f.read().decode()]
        said = []
        for word in words:
            f.write(word.encode() + b"\\n"); f.flush()
            said.append(f.readline().decode().strip())
        s.shutdown(socket.SHUT_WR)
        said.append(f.read().decode())
        return [status, said]
"""


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = BIG if self.path == "/big" else f"{self.path} {self.headers['Host']} {self.headers['Connection']}".encode()
        self._send(body)

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self._send(hashlib.sha256(data).hexdigest().encode())

    def _send(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class WebServer(ThreadingHTTPServer):
    request_queue_size = 128


@pytest.fixture(scope="module")
def web() -> Iterator[int]:
    """A web server on this machine; its port."""
    server = WebServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def echo() -> Iterator[int]:
    """A server that says every line twice, and goodbye; its port."""

    def serve(connection: socket.socket) -> None:
        with connection, connection.makefile("rwb") as file:
            for line in file:
                file.write(line.strip() * 2 + b"\n")
                file.flush()
            file.write(b"goodbye")

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def test_a_box_reaches_what_is_on_its_list_and_nothing_else(box: BlockingBox, web: int, echo: int) -> None:
    def fetch(*words: Any) -> Any:
        called = box.python("fetch", *words, source=FETCH)
        assert called.result.ok, called.result.stderr.text
        return called.value

    url = f"http://127.0.0.1:{web}"
    assert fetch(f"{url}/x", None, True)[0] == 0
    assert fetch(f"{url}/x")[0] == 0  # there is no proxy yet
    box.set_network([f"127.0.0.1:{web}", f"127.0.0.1:{echo}", "*.example.org:443"])
    assert fetch(f"{url}/x?y=1") == [200, f"/x?y=1 127.0.0.1:{web} close"]
    assert fetch(f"{url}/x", None, True)[0] == 0  # not past the proxy
    assert fetch(f"{url}/big") == [200, hashlib.sha256(BIG).hexdigest()]
    assert fetch(f"{url}/post", 1_000_000) == [200, hashlib.sha256(b"z" * 1_000_000).hexdigest()]
    status, said = fetch(f"http://127.0.0.1:{web + 1}/x")
    assert (status, said.partition(" is")[0]) == (403, f"127.0.0.1:{web + 1}")
    talked = box.python("talk", f"127.0.0.1:{echo}", ["a", "bc"], source=TUNNEL)
    assert talked.value == ["200", ["aa", "bcbc", "goodbye"]]
    assert box.python("talk", "example.com:443", [], source=TUNNEL).value[0] == "403"
    assert box.exec("echo $http_proxy").stdout.text == "http://127.0.0.1:3128\n"

    box.set_network([f"127.0.0.1:{echo}"])  # the phase of grading
    assert fetch(f"{url}/x")[0] == 403
    box.set_network(["*:*"])
    status, said = fetch(f"{url}/x")  # all of the world is not this machine
    assert (status, said) == (403, "127.0.0.1 leads to 127.0.0.1, which is no public address\n")
    box.set_network([])
    assert fetch(f"{url}/x")[0] == 403
    assert box.exec("echo fine").stdout.text == "fine\n"


def test_a_connection_that_is_open_is_cut_when_its_host_leaves_the_list(box: BlockingBox, echo: int) -> None:
    box.set_network([f"127.0.0.1:{echo}"])
    hang = (
        "import socket, sys\ns = socket.create_connection(('127.0.0.1', 3128))\n"
        f"s.sendall(b'CONNECT 127.0.0.1:{echo} HTTP/1.1\\r\\n\\r\\n')\nprint(s.recv(99)[:12], flush=True)\nprint(s.recv(99))"
    )
    connected = threading.Event()
    held = box.start(["python3", "-c", hang], on_output=lambda _, piece: connected.set() if b"200" in piece else None)
    assert connected.wait(30)
    assert held.running
    box.set_network([])
    result = held.wait()
    assert result.stdout.text.splitlines()[-1] == "b''" or "ConnectionReset" in result.stderr.text


def test_a_box_that_is_found_again_keeps_its_list(pool: BlockingPool, web: int) -> None:
    box = pool.create("function", name="kept", network=[f"127.0.0.1:{web}"])
    url = f"http://127.0.0.1:{web}/x"
    assert box.python("fetch", url, source=FETCH).value[0] == 200
    box.set_network([])
    again = pool.create("function", name="kept", network=[f"127.0.0.1:{web}"])
    assert again.python("fetch", url, source=FETCH).value[0] == 200  # its record
    assert again.python("fetch", url, source=FETCH).value[0] != 200
    pool.destroy(again)


def test_many_connections_at_once(pool: BlockingPool, web: int) -> None:
    box = pool.create("function", network=[f"127.0.0.1:{web}"])
    source = FETCH + (
        "\nimport concurrent.futures\ndef many(url):\n with concurrent.futures.ThreadPoolExecutor(30) as pool:\n"
        "  return sorted(set(tuple(r) for r in pool.map(fetch, [url] * 90)))"
    )
    assert box.python("many", f"http://127.0.0.1:{web}/big", source=source).value == [[200, hashlib.sha256(BIG).hexdigest()]]
    pool.destroy(box)


@pytest.mark.parametrize("text", ["x", "x:", ":1", "x:0", "x:65536", "x:y", "*.:1", "a b:1", "http://x:1", "x:1/", "[::1:1"])
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="network: got"):
        Rule.of(text)


def test_rules() -> None:
    assert Rule.of("PyPI.org:443").allows("pypi.org", 443)
    assert not Rule.of("pypi.org:443").allows("pypi.org", 80)
    assert not Rule.of("pypi.org:443").allows("evil-pypi.org", 443)
    assert not Rule.of("*.pypi.org:*").allows("pypi.org.evil.com", 443)
    assert Rule.of("[::1]:80").allows("::1", 80)
    assert Rule.of("*:22").allows("anything", 22)


@pytest.mark.parametrize(
    "frames",
    [
        [{"what": "open"}],
        [{"connection": 1, "what": "open", "size": 0}, {"connection": 1, "what": "open", "size": 0}],
        [{"connection": n, "what": "open", "size": 0} for n in range(1000)],
        [{"connection": 1, "what": "open", "size": -1}],
        [{"connection": "1", "what": "open", "size": 0}],
    ],
)
def test_an_agent_that_makes_connections_up_has_lost_its_box(frames: list[dict[str, Any]]) -> None:
    async def scenario() -> None:
        proxy = Proxy(lambda *_: None, rules_of(["*:*"]))
        try:
            for frame in frames:
                proxy.take(frame, b"")
        finally:
            proxy.close()

    with pytest.raises(BoxLostError):
        asyncio.run(scenario())


def test_an_agent_cannot_send_more_than_is_read() -> None:
    async def scenario() -> None:
        proxy = Proxy(lambda *_: None, rules_of([]))
        proxy.take({"connection": 1, "what": "open", "size": 0}, b"")
        try:
            for _ in range(10):
                proxy.take({"connection": 1, "what": "data", "size": 0}, bytes(100 << 10))
        finally:
            proxy.close()

    with pytest.raises(BoxLostError, match="more than it may"):
        asyncio.run(scenario())
