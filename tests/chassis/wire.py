"""A wire between a process and its broker that falls silent without being closed."""

import contextlib
import socket
import threading
from urllib.parse import urlsplit


class Wire:
    """Forwards TCP connections to the broker of ``amqp_uri``; ``uri`` leads through it.

    What is silent forwards nothing, in neither direction, and closes nothing, as a host that
    froze or a firewall that forgot.
    """

    def __init__(self, amqp_uri: str) -> None:
        self._target = urlsplit(amqp_uri)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._gates: list[threading.Event] = []
        self._sockets: list[socket.socket] = [self._listener]
        self._is_frozen = False
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def uri(self) -> str:
        address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        own = self._target.netloc.rpartition("@")[0]
        return self._target._replace(netloc=f"{own}@{address}").geturl()

    def silence(self) -> None:
        """Every connection that is open now falls silent; new ones are forwarded."""
        for gate in self._gates:
            gate.clear()

    def cut(self) -> None:
        """Every connection that is open now is closed; new ones are forwarded."""
        for each in self._sockets[1:]:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def freeze(self) -> None:
        """Everything falls silent: a new connection is accepted, and hears nothing."""
        self._is_frozen = True
        self.silence()

    def close(self) -> None:
        for gate in self._gates:
            gate.set()
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near = self._listener.accept()[0]
                far = socket.create_connection((self._target.hostname, self._target.port))
                gate = threading.Event()
                if not self._is_frozen:
                    gate.set()
                self._gates.append(gate)
                self._sockets += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(
                        target=self._forward, args=(source, sink, gate), daemon=True
                    ).start()

    def _forward(self, source: socket.socket, sink: socket.socket, gate: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                gate.wait()
                sink.sendall(data)
        gate.wait()
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
