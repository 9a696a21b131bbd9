"""A program that is a crowd of clients from one address: python -m tests.system.crowd PORT ADDRESS MANY SENT AGAIN.

Each connection sends the same and goes silent, or with AGAIN=1 sends it again whenever something comes. One that the
server closes is opened anew, 1,000 a second. It writes a line once all were opened, and ends with its standard input.
"""

from __future__ import annotations

import errno
import resource
import selectors
import socket
import sys
import time

ANEW_PER_SECOND = 1_000


class Crowd:
    def __init__(self, port: int, address: str, sent: bytes, again: bool) -> None:
        self.port, self.address, self.sent, self.again = port, address, sent, again
        self.selector = selectors.DefaultSelector()
        self.selector.register(sys.stdin, selectors.EVENT_READ)

    def open_one(self) -> None:
        client = socket.socket()
        client.setblocking(False)
        client.bind((self.address, 0))
        assert client.connect_ex(("127.0.0.1", self.port)) in (0, errno.EINPROGRESS)
        # Once it can be written to, it is connected.
        self.selector.register(client, selectors.EVENT_WRITE)

    def run(self) -> None:
        closed, due = 0, 0.0
        while True:
            for key, events in self.selector.select(0.1):
                if not isinstance(client := key.fileobj, socket.socket):
                    return
                try:
                    self.serve(client, events)
                except OSError:
                    self.selector.unregister(client)
                    client.close()
                    closed += 1
            if time.monotonic() > due:
                for _ in range(anew := min(closed, ANEW_PER_SECOND // 10)):
                    self.open_one()
                closed, due = closed - anew, time.monotonic() + 0.1

    def serve(self, client: socket.socket, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            client.send(self.sent)
            self.selector.modify(client, selectors.EVENT_READ)
        elif not client.recv(65_536):
            raise ConnectionResetError
        elif self.again:
            client.send(self.sent)


def main(port: str, address: str, many: str, sent: str, again: str) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    crowd = Crowd(int(port), address, sent.encode(), again == "1")
    for _ in range(int(many)):
        crowd.open_one()
    sys.stdout.write("All were opened.\n")
    sys.stdout.flush()
    crowd.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
