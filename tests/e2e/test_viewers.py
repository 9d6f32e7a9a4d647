"""What clients of live connections do and claim to have seen: what they would say of a node that loses somebody is tried here."""

import io
import json
import socket
import struct
import threading
import unittest

import viewers
from live import Broken, CLOSE, PING, PONG, TEXT, Refused, Stream, WebSocket, events, frame, message_of, read_frame
from rollout import PAGES, Audience
from viewers import Absences, Follower, Seen, wait_s


def unmasked(opcode: int, payload: bytes, last: bool = True) -> bytes:
    """A frame as a node sends it."""
    head = struct.pack("!BB", (0x80 if last else 0) | opcode, len(payload)) if len(payload) < 126 else struct.pack("!BBH", (0x80 if last else 0) | opcode, 126, len(payload))
    return head + payload


class Node:
    """Takes connections one by one, and gives each the next of some bytes."""

    def __init__(self, *answers: bytes):
        self.heard = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.base = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.thread = threading.Thread(target=self.serve, args=(answers,), daemon=True)
        self.thread.start()

    def serve(self, answers):
        for answer in answers:
            connection, _ = self.listener.accept()
            with connection:
                request = b""
                while b"\r\n\r\n" not in request:
                    request += connection.recv(4096)
                head, _, rest = request.partition(b"\r\n\r\n")
                connection.sendall(answer)
                connection.shutdown(socket.SHUT_WR)
                while more := connection.recv(4096):
                    rest += more
                self.heard.append((head.decode().splitlines()[0], rest))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.thread.join(10)
        self.listener.close()


def upgraded(*frames: bytes) -> bytes:
    return b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\r\n" + b"".join(frames)


def text(message: dict) -> bytes:
    return unmasked(TEXT, json.dumps(message).encode())


class Frames(unittest.TestCase):
    def test_what_a_client_sends_is_masked_and_what_a_node_sends_is_not(self):
        self.assertEqual(frame(TEXT, b"ab", b"\x01\x02\x03\x04"), b"\x81\x82\x01\x02\x03\x04" + bytes([0x61 ^ 1, 0x62 ^ 2]))
        self.assertEqual(frame(TEXT, bytes(300), bytes(4))[:4], b"\x81\xfe\x01\x2c")
        for payload in (b"", b"x" * 125, b"x" * 126, b"x" * 65_535):
            self.assertEqual(read_frame(io.BytesIO(unmasked(TEXT, payload))), (True, TEXT, payload))
        self.assertEqual(read_frame(io.BytesIO(b"\x01\x7f" + struct.pack("!Q", 3) + b"abc")), (False, TEXT, b"abc"))

    def test_broken_frames_are_told(self):
        for wrong in (b"", b"\x81", b"\x81\x05abc", frame(TEXT, b"a", bytes(4)), b"\xc1\x00", b"\x81\x7f" + struct.pack("!Q", 1 << 40)):
            with self.assertRaises(Broken):
                read_frame(io.BytesIO(wrong))

    def test_a_socket_answers_pings_and_joins_fragments_and_ends_in_order(self):
        parts = unmasked(TEXT, b'{"type":', last=False) + unmasked(PING, b"p") + unmasked(0, b'"pong"}')
        with Node(upgraded(parts, unmasked(CLOSE, struct.pack("!H", 1012)))) as node:
            live = WebSocket(node.base, "/p/live?")
            self.assertEqual(list(live.messages()), [{"type": "pong"}])
            live.close()
        (line, sent), = node.heard
        self.assertEqual(line, "GET /p/live? HTTP/1.1")
        # A masked frame of one byte, and one of two.
        self.assertEqual((sent[0], sent[7], len(sent)), (0x80 | PONG, 0x80 | CLOSE, 15))

    def test_a_connection_that_breaks_or_is_refused_says_so(self):
        with Node(upgraded(text({"type": "hello"}))) as node:
            live, told = WebSocket(node.base, "/p/live"), []
            with self.assertRaises(Broken):
                told.extend(iter(live.messages()))
            live.close()
        with Node(b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 3\r\ncontent-length: 0\r\n\r\n") as node:
            with self.assertRaises(Refused) as refused:
                WebSocket(node.base, "/p/live")
        self.assertEqual(refused.exception.after_s, 3)


class Events(unittest.TestCase):
    def test_events_are_those_with_data(self):
        lines = [b"retry: 5\n", b"event: hello\n", b'data: {"version":1}\n', b"\n", b":\n", b"\n", b"id: 7\r\n", b"data:a\n", b"data: b\r\n", b"\n", b"data: cut off\n"]
        self.assertEqual(list(events(lines)), [{"retry": "5", "event": "hello", "data": '{"version":1}'}, {"id": "7", "data": "a\nb"}])

    def test_a_stream_brings_the_messages_of_a_socket(self):
        self.assertEqual(message_of({"data": '{"count":3}'}, "p"), {"type": "count", "page": "p", "count": 3})
        self.assertEqual(message_of({"event": "reconnect", "data": '{"after_ms":3}'}, "p"), {"type": "reconnect", "page": "p", "after_ms": 3})
        body = b'event: hello\ndata: {"resume":"r"}\n\n'
        with Node(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)) as node:
            live = Stream(node.base, "/p/live", "p")
            self.assertEqual(list(live.messages()), [{"type": "hello", "page": "p", "resume": "r"}])
            live.close()


class Told(unittest.TestCase):
    def test_one_count_too_low_is_enough(self):
        seen = Seen({"p": 3, "q": 1})
        seen.follows("a", ["p", "q"])
        self.assertEqual(len(seen.differing()), 2, "nothing was told yet")
        seen.told("a", "p", 2)
        seen.told("a", "p", 3)
        seen.told("a", "q", 1)
        self.assertEqual(seen.differing(), [])
        self.assertEqual(len(seen.missing()), 1)
        seen.begin()
        self.assertEqual((seen.differing(), seen.missing()), ([], []), "what was told before does not count")
        for count in (3, 6, 3):
            seen.told("a", "p", count)
        self.assertEqual((seen.missing(), seen.beyond(2), len(seen.beyond(1))), ([], [], 1))
        seen.answered("b", "p", 2)
        self.assertEqual((len(seen.missing()), seen.differing()), (1, []))
        self.assertIn("2..6 of 3", seen.ranges())

    def test_who_is_told_nothing_any_more_is_not_taken_for_satisfied(self):
        seen = Seen({"p": 1})
        seen.told("a", "p", 1)
        seen.follows("a", ["p"])
        self.assertEqual(len(seen.differing()), 1)
        seen.forget("a")
        self.assertEqual(seen.differing(), [])


class Returning(unittest.TestCase):
    def test_clients_wait_as_they_are_told_and_longer_after_failures(self):
        highest = lambda low, high: high  # noqa: E731
        self.assertEqual(wait_s((200, 3_000), 1.5, 9, highest), 1.5)
        waits = [wait_s((200, 3_000), None, failures, highest) for failures in range(9)]
        self.assertEqual(waits, [3, 3, 3, 3, 6, 12, 24, 30, 30])

    def test_a_client_that_is_sent_away_comes_back_with_its_token(self):
        away = {"type": "reconnect", "after_ms": 0}
        hello = lambda token: {"type": "hello", "resume": token, "retry_ms": [1, 2]}  # noqa: E731
        count = {"type": "count", "page": "p", "count": 1}
        first = upgraded(text(hello("one")), text(count), text(away), unmasked(CLOSE, struct.pack("!H", 1012)))
        with Node(first, upgraded(text(hello("two")), text(count))) as node:
            seen, absences = Seen({"p": 1}), Absences()
            follower = Follower("a", node.base, seen, absences, ["p", "q"], "session=s")
            follower.live = None
            seen.follows("a", ["p"])
            self.assertEqual(follower.follow(), "sent elsewhere")
            self.assertNotIn("sent elsewhere", [follower.follow()])
        self.assertEqual([line.split()[1] for line, _ in node.heard], ["/p/live?session=s", "/p/live?session=s&resume=one"])
        self.assertEqual((follower.resume, follower.failures), ("two", 0))
        self.assertGreater(absences.longest_s, 0)
        self.assertEqual(seen.differing(), [])


class Plan(unittest.TestCase):
    def test_each_page_is_viewed_in_every_way_and_one_viewer_has_two_connections(self):
        audience = Audience("http://127.0.0.1:1", upgrades=True)
        viewed = [(client, page) for client in audience.clients for page in getattr(client, "pages", None) or [client.page]]
        self.assertEqual(sorted(audience.seen.viewers), PAGES)
        self.assertEqual(len(audience.clients), 60)
        self.assertEqual(len(viewed) - sum(audience.seen.viewers.values()), 1)
        for page in PAGES:
            self.assertEqual({type(client) for client, other in viewed if other == page}, {viewers.Follower, viewers.Reader, viewers.Pulse})

    def test_without_web_sockets_streams_stand_for_them(self):
        audience = Audience("http://127.0.0.1:1", upgrades=False)
        self.assertEqual({type(client) for client in [*audience.clients, *audience.watchers]}, {viewers.Reader, viewers.Pulse})
        self.assertEqual((len(audience.clients), sum(audience.seen.viewers.values())), (60, 59))
        self.assertEqual([client.pages for client in audience.watchers], [[page] for page in PAGES])


if __name__ == "__main__":
    unittest.main()
