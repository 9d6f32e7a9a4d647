"""Live connections as a site's clients have them: WebSockets and server-sent events (docs/live.md).

Both give the same messages, those of the WebSocket: `hello`, `count`, `reconnect`.
"""

import base64
import http.client
import json
import os
import socket
import struct
from urllib.parse import urlsplit

# Until the first byte of an answer, and between two bytes later: a node pings twice in a heartbeat of 20 s.
OPEN_SECONDS = 10
SILENCE_SECONDS = 25
MESSAGE_BYTES_MAX = 1 << 20
CONTINUATION, TEXT, CLOSE, PING, PONG = 0x0, 0x1, 0x8, 0x9, 0xA


class Broken(Exception):
    """The connection ended, or there was none; the message says how."""


class Refused(Broken):
    """The node answered, and took no connection; `after_s` is when it is to be tried again, None where it did not say."""

    def __init__(self, status: int, after_s: float | None):
        super().__init__(f"answered {status}")
        self.after_s = after_s


def frame(opcode: int, payload: bytes, mask: bytes) -> bytes:
    """A whole message to the node, as one frame. A client's payload is masked."""
    if len(payload) < 126:
        head = struct.pack("!BB", 0x80 | opcode, 0x80 | len(payload))
    else:
        head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, len(payload))
    return head + mask + bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))


def read_frame(source) -> tuple[bool, int, bytes]:
    """One frame of a node's: whether it is its message's last, its opcode and its payload. `source` is a binary file."""
    first, second = exactly(source, 2)
    length = second & 0x7F
    if second & 0x80 or first & 0x70:
        raise Broken("a node's frame is masked, or has bits of an extension")
    if length == 126:
        (length,) = struct.unpack("!H", exactly(source, 2))
    elif length == 127:
        (length,) = struct.unpack("!Q", exactly(source, 8))
    if length > MESSAGE_BYTES_MAX:
        raise Broken(f"a frame of {length} bytes")
    return bool(first & 0x80), first & 0x0F, exactly(source, length)


def exactly(source, length: int) -> bytes:
    read = source.read(length) if length else b""
    if len(read) != length:
        raise Broken("the connection ended")
    return read


def events(lines):
    """Server-sent events of lines with their ends: the members of each that has data, by name."""
    fields = {}
    for line in lines:
        text = line.decode().rstrip("\r\n")
        if not text:
            if "data" in fields:
                yield fields
            fields = {}
            continue
        name, _, value = text.partition(":")
        if name:
            value = value.removeprefix(" ")
            fields[name] = f"{fields['data']}\n{value}" if name == "data" and "data" in fields else value


def message_of(event: dict, page: str) -> dict:
    """The message that a WebSocket would bring instead of this event of a page's stream."""
    return {"type": event.get("event", "count"), "page": page, **json.loads(event["data"])}


class Live:
    """An open connection; made, it has been accepted."""

    def __init__(self, base: str, path: str, headers: dict[str, str], status: int):
        parts = urlsplit(base)
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=OPEN_SECONDS)
        try:
            connection.connect()
            # http.client forgets it when an answer has no end of its own.
            self.socket = connection.sock
            self.socket.settimeout(OPEN_SECONDS)
            connection.request("GET", parts.path.rstrip("/") + path, headers=headers)
            self.answer = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise Broken(f"{type(error).__name__} {error}") from error
        if self.answer.status != status:
            after = self.answer.getheader("retry-after")
            self.close()
            raise Refused(self.answer.status, float(after) if after else None)
        self.socket.settimeout(SILENCE_SECONDS)

    def messages(self):
        """What the node says, until it or `close` ends the connection: by Broken, unless the node ended it in order."""
        try:
            yield from self.read()
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise Broken(f"{type(error).__name__} {error}") from error

    def read(self):
        raise NotImplementedError

    def close(self):
        """Ends it from any thread; whoever reads finds out."""
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        # The reader may be using the answer: its file is closed with the last who knows of it.
        self.socket.close()


class WebSocket(Live):
    """Several pages on one connection."""

    def __init__(self, base: str, path: str):
        key = base64.b64encode(os.urandom(16)).decode()
        headers = {"connection": "Upgrade", "upgrade": "websocket", "sec-websocket-version": "13", "sec-websocket-key": key}
        super().__init__(base, path, headers, 101)
        # An answer of 101 has no body for http.client: its file goes on with what the node says.
        self.source = self.answer.fp

    def send(self, message: dict):
        self.send_frame(TEXT, json.dumps(message).encode())

    def send_frame(self, opcode: int, payload: bytes):
        try:
            self.socket.sendall(frame(opcode, payload, os.urandom(4)))
        except OSError as error:
            raise Broken(f"{type(error).__name__} {error}") from error

    def read(self):
        text = b""
        while True:
            last, opcode, payload = read_frame(self.source)
            if opcode == PING:
                self.send_frame(PONG, payload)
            elif opcode == CLOSE:
                self.send_frame(CLOSE, payload[:2])
                return
            elif opcode in (TEXT, CONTINUATION):
                text += payload
                if last:
                    yield json.loads(text)
                    text = b""


class Stream(Live):
    """One page, as server-sent events."""

    def __init__(self, base: str, path: str, page: str):
        super().__init__(base, path, {"accept": "text/event-stream"}, 200)
        self.page = page

    def read(self):
        for event in events(iter(self.answer.readline, b"")):
            yield message_of(event, self.page)
