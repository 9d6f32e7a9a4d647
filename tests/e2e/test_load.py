"""The end-to-end test is only as good as what its clients claim to know: each way an update can end is tried here."""

import json
import socket
import threading
import unittest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from counters import SITE, wait_agreement
from kube import Failed
from load import Clients, Connection, Totals, Unexpected, update


def answer(status, body):
    def respond(handler):
        text = json.dumps(body).encode()
        handler.send_response(status)
        handler.send_header("content-length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text)

    return respond


def hang_up(handler):
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


class Server:
    def __init__(self, respond):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_PUT(self):
                self.rfile.read(int(self.headers.get("content-length", 0)))
                respond(self)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.base = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def outcome(respond, change=1):
    with Server(respond) as server:
        connection = Connection(server.base)
        try:
            return update(connection, "page", change)[0]
        finally:
            connection.close()


class Outcomes(unittest.TestCase):
    def test_only_a_200_is_an_acknowledgement(self):
        self.assertEqual(outcome(answer(200, {"count": 1})), "acknowledged")

    def test_a_503_is_believed_only_when_it_says_not_applied(self):
        self.assertEqual(outcome(answer(503, {"type": "/problems/not-applied"})), "not applied")
        self.assertEqual(outcome(answer(503, {"type": "/problems/outcome-unknown"})), "unknown")
        self.assertEqual(outcome(answer(502, {})), "unknown")

    def test_a_connection_that_breaks_leaves_the_outcome_unknown(self):
        self.assertEqual(outcome(hang_up), "unknown")

    def test_a_connection_that_was_never_made_sent_nothing(self):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            connection = Connection(f"http://127.0.0.1:{unused.getsockname()[1]}")
            self.assertEqual(update(connection, "page", 1)[0], "not sent")

    def test_an_answer_that_makes_no_sense_fails_the_run(self):
        with self.assertRaises(Unexpected):
            outcome(answer(400, {}))
        with Server(answer(404, {})) as server:
            clients = Clients(server.base, threads=1, pages=["page"], updates_per_second=100).start()
            clients.threads[0].join(10)
            with self.assertRaises(Unexpected):
                clients.stop()


class Bounds(unittest.TestCase):
    def test_unknown_updates_widen_the_bounds_on_their_own_side(self):
        totals = Totals()
        for change, how in ((5, "acknowledged"), (2, "unknown"), (-1, "unknown"), (9, "not applied"), (9, "not sent")):
            totals.record("page", change, how)
        self.assertEqual(totals.bounds("page"), (4, 7))
        self.assertEqual(totals.site_bounds(), (4, 7))

    def test_nodes_that_differ_or_counts_outside_fail(self):
        totals = Totals()
        totals.record("page", 5, "acknowledged")
        agree = lambda answers: wait_agreement(Pods(answers), Answers(answers), ["page"], totals, seconds=0)  # noqa: E731
        import counters

        real, counters.answers_of = counters.answers_of, lambda base, pages: base
        try:
            self.assertEqual(agree([{"page": 5, SITE: 5}] * 3)["page"], 5)
            for wrong in ([{"page": 5, SITE: 5}, {"page": 4, SITE: 4}], [{"page": 4, SITE: 4}], [{"page": 6, SITE: 6}], [{"page": 5, SITE: 4}], []):
                with self.assertRaises(Failed):
                    agree(wrong)
        finally:
            counters.answers_of = real


class Pods:
    def __init__(self, answers):
        self.answers = answers

    def pods(self):
        return [{"metadata": {"name": str(number)}} for number in range(len(self.answers))]


class Answers:
    """Stands where the way to a Pod would be, and gives the answers themselves."""

    def __init__(self, answers):
        self.answers = answers

    def pod(self, pod):
        return self.answers[int(pod["metadata"]["name"])]


if __name__ == "__main__":
    unittest.main()
