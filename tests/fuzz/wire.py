"""A sender that writes bytes to a socket and reads what HTTP makes of the answer, however odd the request was."""

from __future__ import annotations

import contextlib
import http.client
import socket
from dataclasses import dataclass

SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes


class Line:
    """One connection at a time; another one is opened when the other side has closed it."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._socket: socket.socket | None = None

    def ask(self, data: bytes, method: str) -> Answer | None:
        """The answer to a whole request, None when there is none; tried again when the connection was an old one."""
        fresh = self._socket is None
        answer = self._ask(data, method)
        return answer if answer is not None or fresh else self._ask(data, method)

    def odd(self, data: bytes, method: str) -> Answer | None:
        """The answer to a request that may not be one; nothing more is said on this connection."""
        self.close()
        with contextlib.suppress(OSError):  # it was answered, and closed, before it was all sent
            self._open().sendall(data)
            self._open().shutdown(socket.SHUT_WR)
        answer = self._read(method)
        self.close()
        return answer

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _open(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.create_connection(self._address, timeout=SECONDS)
        return self._socket

    def _ask(self, data: bytes, method: str) -> Answer | None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # there may be an answer all the same
            self._open().sendall(data)
        return self._read(method)

    def _read(self, method: str) -> Answer | None:
        line = self._socket
        if line is None:
            return None
        try:
            reply = http.client.HTTPResponse(line, method=method)
            reply.begin()
            body = reply.read()
        except TimeoutError:
            self.close()
            raise
        except (http.client.HTTPException, OSError):
            self.close()
            return None
        if reply.will_close:
            self.close()
        return Answer(reply.status, body)


def post(path: str, body: bytes, token: str | None) -> bytes:
    """A POST as a worker sends it."""
    lines = [f"POST {path} HTTP/1.1", "Host: a", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [f"Authorization: Bearer {token}"] if token is not None else []
    return "\r\n".join([*lines, "", ""]).encode() + body
