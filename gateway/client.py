"""The commands' own small HTTP client: JSON in, JSON or a stream of events out, one connection a request."""

from __future__ import annotations

import http.client
import json
import secrets
from collections.abc import Generator, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

CONNECT_TIMEOUT_SECONDS = 10.0
SILENCE_TIMEOUT_SECONDS = 600.0
_JSON = "application/json"


class ServerError(Exception):
    """The server refused or failed; the message is for people. `status` is its HTTP status, None after the head."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class NoAnswer(ServerError):
    """Nobody listens at that address, or it cannot be reached."""


class Server:
    """An OpenAI-compatible server at `url`, with or without a trailing /v1."""

    def __init__(self, url: str, key: str | None = None) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ServerError(f"{url!r} is no address of a server: it should look like http://127.0.0.1:8000")
        self.url = url
        self._host, self._port, self._is_tls = parts.hostname, parts.port, parts.scheme == "https"
        self._prefix = parts.path.rstrip("/").removesuffix("/v1")
        self._headers = {"authorization": f"Bearer {key}"} if key else {}

    def get(self, path: str) -> Any:
        """The decoded JSON at `path`. Raises `ServerError`."""
        return self._exchange("GET", path)

    def post(self, path: str, body: bytes | None = None, *, head_bytes: int = 0) -> Any:
        """The decoded JSON that answers a POST; it may take as long as a model takes to load.

        A body of tensors in binary has a head of JSON, of so many bytes. Raises `ServerError`.
        """
        return self._exchange("POST", path, body, head_bytes)

    def delete(self, path: str) -> Any:
        """The decoded JSON that answers a DELETE. Raises `ServerError`."""
        return self._exchange("DELETE", path)

    def upload(self, filename: str, content: bytes, purpose: str = "assistants") -> Any:
        """The file object of a new file. Raises `ServerError`."""
        boundary = secrets.token_hex(16)
        disposition = f"--{boundary}\r\nContent-Disposition: form-data; name="
        # As HTML's forms write names (RFC 7578 §2).
        name = filename.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
        head = (
            f'{disposition}"purpose"\r\n\r\n{purpose}\r\n'
            f'{disposition}"file"; filename="{name}"\r\nContent-Type: application/octet-stream\r\n\r\n'
        )
        body = b"".join([head.encode(), content, f"\r\n--{boundary}--\r\n".encode()])
        return self._exchange("POST", "/v1/files", body, content_type=f"multipart/form-data; boundary={boundary}")

    def _exchange(
        self, method: str, path: str, body: bytes | None = None, head_bytes: int = 0, content_type: str = _JSON
    ) -> Any:
        connection = self._connect()
        try:
            return json.loads(self._ask(connection, method, path, body, head_bytes, content_type).read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ServerError(f"{self.url} broke off: {error}") from error
        finally:
            connection.close()

    def events(self, path: str, body: Mapping[str, Any]) -> Generator[dict[str, Any], None, None]:
        """The events of a stream up to `[DONE]`; leaving the iteration closes the connection, which stops the answer.

        Raises `ServerError`, for an end without `[DONE]` as well.
        """
        connection = self._connect()
        try:
            response = self._ask(connection, "POST", path, json.dumps(body).encode())
            try:
                yield from self._decoded(response)
            finally:
                response.close()
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ServerError(f"{self.url} broke off: {error}") from error
        finally:
            connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._is_tls else http.client.HTTPConnection
        connection = kind(self._host, self._port, timeout=CONNECT_TIMEOUT_SECONDS)
        try:
            connection.connect()
        except OSError as error:
            raise NoAnswer(f"no server answers at {self.url}: {error.strerror or error}") from error
        connection.sock.settimeout(SILENCE_TIMEOUT_SECONDS)
        return connection

    def _ask(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: bytes | None = None,
        head_bytes: int = 0,
        content_type: str = _JSON,
    ) -> http.client.HTTPResponse:
        headers = {"content-type": content_type, **self._headers} if body else self._headers
        if head_bytes:
            headers = {**self._headers, "inference-header-content-length": str(head_bytes)}
        connection.request(method, self._prefix + path, body, headers)
        response = connection.getresponse()
        if response.status != http.client.OK:
            raise ServerError(_reason(response.read(), response.status), response.status)
        return response

    def _decoded(self, response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
        """Cases of a line: the end, an error event, an event, and all that is not data (comments, blank lines)."""
        for line in response:
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                return
            event = json.loads(data)
            if event.get("error"):
                raise ServerError(_reason(data, 500))
            yield event
        raise ServerError(f"{self.url} broke off before the answer ended")


def _reason(body: bytes, status: int) -> str:
    """What an error's body says, in OpenAI's envelope or in any other shape."""
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {status}: {body.decode(errors='replace')[:500] or http.client.responses.get(status, '')}"
