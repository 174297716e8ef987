"""The server before the application: slow clients, bounds, stopping, and what a crash leaves."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import cast

import psutil
import pytest
import requests
import uvicorn

from chassis.database import Connected
from deploy.local.processes import ROOT
from deploy.local.startup import is_port_free
from services.gateway import metrics
from services.gateway.server import connections, sharing
from services.gateway.server.__main__ import STOP_TIMEOUT_S
from services.gateway.server.connections import HEAD_BYTES_MAX
from services.gateway.server.wsgi import BufferedWsgi
from tests.gateway.conftest import PASSWORD, Front, add_user, error_of, gateway_settings
from tests.patience import PATIENCE_S, START_PATIENCE_S, eventually, min_of, took_s

AT_ONCE_S = 2.0
"""Milliseconds on an idle machine; far below the seconds that the slow ones take."""

STAYS_S = "300"
"""For a request that has not arrived: who waits for the end of a slow one waits in vain."""

SLOW_HEAD = b"GET /login HTTP/1.1\r\nHost: site\r\nX-Slow: "
SLOW_BODY = (
    b"POST /api/auth/login HTTP/1.1\r\nHost: site\r\nContent-Type: application/json\r\n"
    b"Content-Length: 5000\r\n\r\n"
)
LARGE_FILE = "/static/vendor/bootstrap.min.css"
REQUESTS_UNREAD = 30
"""Together more than the system's own buffers hold for one connection."""


def read_all(connection: socket.socket) -> bytes:
    """What comes until the server closes."""
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
    return received


def send_slowly(slow: list[socket.socket], done: threading.Event) -> threading.Thread:
    """A byte for each connection, again and again, every second."""

    def drip() -> None:
        while not done.wait(1.0):
            for connection in slow:
                connection.send(b"x")

    thread = threading.Thread(target=drip)
    thread.start()
    return thread


def slowest_answer_s(front: Front) -> float:
    """The slowest of 30, in a round in which the machine itself held nobody up."""
    paths = ["/healthz", "/login"] * 15
    return min_of(lambda: max(front.took_s(path) for path in paths), AT_ONCE_S)


def test_two_hundred_slow_senders_delay_nobody(start_front: Callable[..., Front]) -> None:
    front = start_front(GATEWAY_REQUEST_TIMEOUT_S=STAYS_S)
    slow = [front.connect() for _ in range(200)]
    for number, connection in enumerate(slow):
        connection.sendall(SLOW_HEAD if number % 2 else SLOW_BODY)
    done = threading.Event()
    dripping = send_slowly(slow, done)
    try:
        slowest_s = slowest_answer_s(front)
    finally:
        done.set()
        dripping.join()

    assert slowest_s < AT_ONCE_S


def test_readers_that_do_not_read_delay_nobody(start_front: Callable[..., Front]) -> None:
    front = start_front()
    for _ in range(50):
        connection = front.connect(receive_bytes=4096)
        for _ in range(REQUESTS_UNREAD):
            connection.sendall(f"GET {LARGE_FILE} HTTP/1.1\r\nHost: site\r\n\r\n".encode())

    assert slowest_answer_s(front) < AT_ONCE_S


def test_a_reader_that_stands_still_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "READ_GRACE_S", 0.2)
    monkeypatch.setattr(connections, "READ_BYTES_PER_S_MIN", 100_000_000)
    monkeypatch.setattr(connections, "get_settings", lambda: gateway_settings("postgresql://"))

    def large(_environ: object, start_response: Callable[..., object]) -> list[bytes]:
        start_response("200 OK", [("Content-Length", str(40_000_000))])
        return [bytes(40_000_000)]

    app = BufferedWsgi(large, threads=1, body_bytes_max=10, close=lambda: None)
    config = uvicorn.Config(app, http=connections.Connection, lifespan="on", log_config=None)
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    serving = threading.Thread(target=server.run, args=([listener],))
    serving.start()
    try:
        with socket.create_connection(listener.getsockname(), timeout=PATIENCE_S) as standing:
            standing.sendall(b"GET / HTTP/1.1\r\nHost: site\r\n\r\n")
            standing.recv(1)
            eventually(lambda: not server.server_state.connections)
            counted = metrics.turned_away["answer_not_read"].collect()
    finally:
        server.should_exit = True
        serving.join(PATIENCE_S)

    assert [sample.value for metric in counted for sample in metric.samples] == [1]


@pytest.mark.parametrize("beginning", [b"", SLOW_HEAD, SLOW_BODY], ids=["nothing", "head", "body"])
def test_a_request_that_does_not_arrive_is_answered_408(
    start_front: Callable[..., Front], beginning: bytes
) -> None:
    front = start_front(GATEWAY_REQUEST_TIMEOUT_S="0.5")
    connection = front.connect()
    connection.sendall(beginning)

    answer = read_all(connection)

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"content-type: application/problem+json\r\n" in answer
    assert b'"code": "request_timeout"' in answer


def test_a_second_request_that_does_not_arrive_is_answered_408(
    start_front: Callable[..., Front],
) -> None:
    connection = start_front(GATEWAY_REQUEST_TIMEOUT_S="5").connect()
    connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: site\r\n\r\n")
    assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
    connection.sendall(SLOW_HEAD)

    assert b"HTTP/1.1 408 " in read_all(connection)


def test_headers_without_an_end_are_refused(start_front: Callable[..., Front]) -> None:
    connection = start_front().connect()
    connection.sendall(b"GET / HTTP/1.1\r\nHost: site\r\n" + b"X-More: more\r\n" * 10)
    connection.sendall(b"X-Long: " + b"x" * HEAD_BYTES_MAX)

    assert read_all(connection).startswith(b"HTTP/1.1 431 ")


def test_what_is_no_http_is_refused_in_words_of_the_api_and_safely(
    start_front: Callable[..., Front],
) -> None:
    connection = start_front().connect()
    connection.sendall(b"GET / HTTP/1.1\r\nHost site\r\n\r\n" + b"x" * HEAD_BYTES_MAX)

    answer = read_all(connection)

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1") == 1
    assert b'"code": "malformed_request"' in answer
    assert b"x-content-type-options: nosniff\r\n" in answer
    assert b"frame-ancestors 'none'\r\n" in answer


def test_a_body_that_is_too_large_is_refused_in_words_of_the_api(
    start_front: Callable[..., Front],
) -> None:
    front = start_front()
    address = f"{front.base_url}/api/auth/login"
    body = b'"' + b"x" * 100_000 + b'"'
    headers = {"Content-Type": "application/json"}

    whole = requests.post(address, data=body, headers=headers, timeout=PATIENCE_S)
    chunked = requests.post(
        address, data=iter([body[:50_000], body[50_000:]]), headers=headers, timeout=PATIENCE_S
    )

    assert (error_of(whole), error_of(chunked)) == ((413, "body_too_large"),) * 2


def test_a_notice_of_the_card_processor_may_be_larger(start_front: Callable[..., Front]) -> None:
    answer = requests.post(
        f"{start_front().base_url}/webhooks/stripe",
        data=b"x" * 500_000,
        headers={"Stripe-Signature": "t=1,v1=none"},
        timeout=PATIENCE_S,
    )

    assert error_of(answer) == (503, "unavailable")


def test_a_chunked_body_is_read(start_front: Callable[..., Front]) -> None:
    front = start_front()
    pieces = iter([b'{"email": "nobody@example.com", ', b'"password": "wrong password"}'])
    headers = {"Content-Type": "application/json"}

    answer = requests.post(
        f"{front.base_url}/api/auth/login", data=pieces, headers=headers, timeout=PATIENCE_S
    )

    assert error_of(answer) == (401, "wrong_credentials")


def test_whoever_holds_all_places_keeps_nobody_out(start_front: Callable[..., Front]) -> None:
    front = start_front(
        GATEWAY_CONNECTIONS="10", GATEWAY_WORKERS="1", GATEWAY_REQUEST_TIMEOUT_S=STAYS_S
    )
    held = [front.connect() for _ in range(40)]
    for connection in held:
        connection.sendall(SLOW_HEAD)

    assert min_of(lambda: front.took_s("/healthz"), AT_ONCE_S) < AT_ONCE_S


def test_while_a_worker_hangs_another_takes_what_is_left_to_it(
    start_front: Callable[..., Front],
) -> None:
    front = start_front()
    hanging, working = front.workers()
    answered: list[socket.socket] = []

    def asks() -> None:
        connection = front.connect()
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: site\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
        answered.append(connection)

    hanging.suspend()
    try:
        waited_s = min_of(lambda: sum(took_s(asks) for _ in range(12)), AT_ONCE_S)
    finally:
        hanging.resume()

    assert held_by(front, working) == len(answered)
    assert waited_s < AT_ONCE_S


def held_by(front: Front, worker: psutil.Process) -> int:
    return sum(
        each.status == "ESTABLISHED" and each.laddr.port == front.port
        for each in worker.net_connections("tcp")
    )


def test_the_count_of_a_worker_that_was_killed_goes_with_the_next_start(
    tmp_path: Path, another_worker: subprocess.Popen[str]
) -> None:
    path = tmp_path / "connections"
    mine = sharing.Held(path)
    mine.add(1)
    seen = [mine.is_more_than_another()]
    another_worker.kill()
    another_worker.wait()
    seen.append(mine.is_more_than_another())
    code = f"from services.gateway.server.sharing import Held; Held({str(path)!r}).leave()"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, check=True)
    seen.append(mine.is_more_than_another())

    assert seen == [True, True, False]


@pytest.fixture
def another_worker(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Holds no connection, and leaves when it is written to."""
    code = (
        "from pathlib import Path; from services.gateway.server.sharing import Held;"
        f" held = Held(Path({str(tmp_path / 'connections')!r})); print('here', flush=True);"
        " input(); held.leave()"
    )
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        yield process
        process.kill()


def test_a_connection_is_left_to_a_worker_that_holds_fewer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, another_worker: subprocess.Popen[str]
) -> None:
    monkeypatch.setattr(sharing, "LEAVES_FOR_S", 3_600.0)
    monkeypatch.setenv(sharing.FILE, str(tmp_path / "connections"))

    class Taken(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            taken.put_nowait(transport)

    taken: asyncio.Queue[asyncio.BaseTransport] = asyncio.Queue()

    async def share(listener: socket.socket) -> None:
        new = cast(Callable[[], connections.Connection], Taken)
        mine = sharing.SharedListener(asyncio.get_running_loop(), listener, new)
        held = [await asyncio.wait_for(taken.get(), PATIENCE_S)]
        # The other one takes what is left to it, and goes.
        listener.accept()[0].close()
        another_worker.communicate("\n")
        mine._take_what_was_left()
        held += [await asyncio.wait_for(taken.get(), PATIENCE_S) for _ in range(2)]
        mine.close()
        for transport in held:
            cast(asyncio.Transport, transport).abort()
        await asyncio.sleep(0)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        clients = [socket.create_connection(listener.getsockname()) for _ in range(4)]
        # A browser of another test keeps a loop running in this thread.
        with ThreadPoolExecutor(1) as beside:
            beside.submit(asyncio.run, share(listener)).result()
    for client in clients:
        client.close()

    assert taken.empty()


def test_a_header_with_an_underscore_does_not_pass_for_the_proxy_s(
    start_front: Callable[..., Front],
) -> None:
    front = start_front(TRUSTED_PROXIES="1")
    connection = front.connect()
    connection.sendall(
        b"GET /login HTTP/1.1\r\nHost: site\r\nX_Forwarded_For: 9.9.9.9\r\n"
        b"X-Forwarded-For: 8.8.8.8\r\nConnection: close\r\n\r\n"
    )
    read_all(connection)

    log = eventually(front.child.tail, lambda text: '"address": "8.8.8.8"' in text)
    assert "9.9.9.9" not in log


def test_stopping_answers_what_is_in_hand_and_resets_nothing(
    start_front: Callable[..., Front], database: Connected
) -> None:
    front = start_front(GATEWAY_REQUEST_TIMEOUT_S=STAYS_S)
    user = add_user(database, has_wallet=True)
    on_its_way = front.connect()
    on_its_way.sendall(b"GET /healthz HTTP/1.1\r\nHost: site\r\n")
    statuses: list[int] = []
    login = {"email": user.email, "password": PASSWORD}

    # Their connections stay: all are seen at once, however soon the first ones are answered.
    browsers = [requests.Session() for _ in range(8)]

    def log_in(browser: requests.Session) -> None:
        address = f"{front.base_url}/api/auth/login"
        statuses.append(browser.post(address, json=login, timeout=PATIENCE_S).status_code)

    threads = [threading.Thread(target=log_in, args=(browser,)) for browser in browsers]
    for thread in threads:
        thread.start()
    eventually(lambda: len(front_connections(front)) >= 9)
    front.child.signal_stop()
    on_its_way.sendall(b"\r\n")
    for thread in threads:
        thread.join()
    ended_after_s = took_s(lambda: eventually(lambda: not front.child.is_running))

    assert statuses == [200] * 8
    assert read_all(on_its_way).startswith(b"HTTP/1.1 200 ")
    assert ended_after_s < STOP_TIMEOUT_S


def front_connections(front: Front) -> list[object]:
    """The connections that the workers have."""
    return [
        connection
        for worker in front.workers()
        for connection in worker.net_connections("tcp")
        if connection.status == "ESTABLISHED" and connection.laddr.port == front.port
    ]


def test_nobody_is_let_in_only_to_be_reset(start_front: Callable[..., Front]) -> None:
    """But for who was in the kernel's queue when the last worker closed the port: one at most, as
    this asks one after the other."""
    front = start_front()
    ends: list[str] = []
    asked = threading.Event()

    def ask_until_refused() -> None:
        while "refused" not in ends and len(ends) < 10:
            with closing(socket.socket()) as connection:
                connection.settimeout(PATIENCE_S)
                try:
                    connection.connect(("127.0.0.1", front.port))
                except ConnectionRefusedError:
                    ends.append("refused")
                    return
                try:
                    connection.sendall(
                        b"GET /healthz HTTP/1.1\r\nHost: site\r\nConnection: close\r\n\r\n"
                    )
                    if not read_all(connection).startswith(b"HTTP/1.1 200 "):
                        ends.append("no answer")
                except OSError as error:
                    ends.append(repr(error))
            asked.set()

    asking = threading.Thread(target=ask_until_refused)
    asking.start()
    assert asked.wait(PATIENCE_S)
    front.child.signal_stop()
    asking.join()

    assert ends[-1] == "refused"
    assert len(ends) <= 2
    assert "no answer" not in ends


def test_a_worker_that_was_killed_is_replaced(start_front: Callable[..., Front]) -> None:
    front = start_front()
    killed = eventually(front.workers, lambda workers: len(workers) == 2)
    for worker in killed:
        worker.kill()

    others = eventually(
        front.workers,
        lambda workers: len(workers) == 2 and not {*workers} & {*killed} and front.answers(),
        within_s=START_PATIENCE_S,
    )

    assert len({*others, *killed}) == 4


def test_no_worker_keeps_the_port_of_a_master_that_was_killed(
    start_front: Callable[..., Front],
) -> None:
    def is_kept_s() -> float:
        front = start_front()
        assert front.child.pid is not None
        os.kill(front.child.pid, signal.SIGKILL)
        return took_s(lambda: eventually(lambda: is_port_free(front.port)))

    assert min_of(is_kept_s, AT_ONCE_S) < AT_ONCE_S
