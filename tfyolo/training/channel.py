"""How the workers of one training meet, and what they tell each other beside TensorFlow's collectives.

Each of the others keeps one TCP connection to worker 0, the chief, on the port that is the chief's in TensorFlow's own
cluster. A connection that breaks is a worker that is gone: TensorFlow's calls alone would wait, or say less.
"""

import contextlib
import json
import os
import queue
import selectors
import socket
import sys
import threading
import time

from tfyolo import __version__
from tfyolo.errors import Error
from tfyolo.messages import printable

# A code of 128 and more has cluster managers start a job again, and 138 (128 + SIGUSR1) is the one that is left to
# programs.
AGAIN = 138


class LostError(Error):
    """A worker of the training is gone, or never came. The same command on all of them, with --resume, goes on."""

    exit_code = AGAIN


class OtherError(Error):
    """Another worker ended the training by an error of its own, which the message repeats."""


class Workers(tuple):
    """The addresses, "host:port", of all workers of a training; the first is the chief's."""

    def name(self, index):
        """How messages call a worker."""
        return f"worker {index} ({self[index]})"


# --- meeting ----------------------------------------------------------------------------------------------------------

LONGEST_LINE = 1 << 20  # bytes of a message without what follows it
GO, NO = b"go\n", b"no "  # the chief's answer: train, or the error that keeps all from it
TOLD_EVERY = 30.0  # seconds
STAYS = 5.0  # seconds that the chief goes on answering where they cannot train together


def meet(workers, index, seconds):
    """Waits until all workers are there, and says whom it waits for.

    Each listens on the port that TensorFlow will, so that the chief knows whether it can be reached there.

    Args:
        workers: Workers.
        index: which of them this process is.
        seconds: after which it gives up.

    Returns:
        {index of a worker: the socket to it}: to the chief alone, except of the chief, which has all others.

    Raises:
        LostError: they are not all there in time.
        OtherError: one has other addresses, or another version of tfyolo.
    """
    end, me = time.monotonic() + seconds, {"tfyolo": __version__, "workers": list(workers), "index": index}
    with _listening(workers, index, end) as listener:
        if index == 0:
            return _gather(workers, listener, me, end)
        return {0: _report(workers, index, me, end)}


@contextlib.contextmanager
def _listening(workers, index, end):
    host, _, port = workers[index].rpartition(":")
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        while True:
            try:
                listener.bind(("", int(port)))
                break
            except OSError as error:  # such as of a worker of the run before, which is about to end
                if time.monotonic() > end:
                    raise LostError(
                        f"{workers.name(index)}: expected its port {port} to be free on this machine, received: "
                        f"{error.strerror}; end the process that has it, or name another port"
                    ) from error
                time.sleep(0.2)
        listener.listen(len(workers) + 8)
        yield listener


def _connected(address, timeout):
    """A socket to a "host:port" that may be there; None if it is not."""
    host, _, port = address.rpartition(":")
    with contextlib.suppress(OSError):
        return socket.create_connection((host.strip("[]"), int(port)), timeout)
    return None


def _gather(workers, listener, me, end):
    """The chief's part: all others have come, and each can be reached where TensorFlow will look for it."""
    there, coming, waiting = {}, {}, _Waiting(workers, 0, end)
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        stack.callback(lambda: [connection.close() for connection in (*there.values(), *coming)])
        selector.register(listener, selectors.EVENT_READ)
        while len(there) < len(workers) - 1:
            waiting.about([i for i in range(1, len(workers)) if i not in there])
            for key, _ in selector.select(0.2):
                if key.fileobj is listener:
                    connection, _ = listener.accept()
                    connection.setblocking(False)
                    selector.register(connection, selectors.EVENT_READ)
                    coming[connection] = b""
                    continue
                connection = key.fileobj
                try:
                    read = connection.recv(4096)
                except OSError:
                    read = b""
                coming[connection] = coming.get(connection, b"") + read
                if read and not coming[connection].endswith(b"\n") and len(coming[connection]) < LONGEST_LINE:
                    continue
                selector.unregister(connection)
                try:
                    index = _introduced(coming[connection], me) if read else None
                except OtherError as error:
                    _refuse(listener, [*coming, *there.values()], len(workers) - 1, str(error))
                    raise
                del coming[connection]
                for gone in [i for i, other in there.items() if other is connection or i == index]:
                    there.pop(gone).close()  # it ended, or came again before the others did
                if index is None or not _reachable(workers, index):
                    connection.close()
                else:
                    there[index] = connection
                    selector.register(connection, selectors.EVENT_READ)  # to see whether it stays
        for connection in there.values():
            connection.setblocking(True)
            connection.sendall(GO)
        stack.pop_all()
    return there


def _refuse(listener, connections, count, text):
    """Tells those who have come, and for some seconds those who come yet, why they cannot train: none waits in vain.

    Args:
        listener: where they come to.
        connections: sockets to those who have come.
        count: how many are expected; with as many told it returns.
        text: why.
    """
    end, told = time.monotonic() + STAYS, 0
    listener.settimeout(0.2)
    while told < count and time.monotonic() < end:
        for connection in connections:
            with contextlib.suppress(OSError), connection:
                connection.settimeout(1.0)
                connection.sendall(NO + text.encode() + b"\n")
                connection.shutdown(socket.SHUT_WR)
                connection.recv(4096)  # what it says must be read, or closing takes back what it was told
            told += 1
        connections = []
        with contextlib.suppress(OSError):
            connections = [listener.accept()[0]]


def _introduced(line, me):
    """The index that a process has introduced itself by; None if it is no worker.

    Raises:
        OtherError: it is one of another cluster or version.
    """
    try:
        other = json.loads(line)
        index, version, workers = other["index"], other["tfyolo"], other["workers"]
    except (ValueError, KeyError, TypeError):
        return None
    if version != me["tfyolo"]:
        raise OtherError(f"expected tfyolo {me['tfyolo']} on all workers, worker {index} has {version}")
    if workers != me["workers"] or index not in range(1, len(workers)):
        raise OtherError(
            f"expected the same addresses on all workers, received {', '.join(me['workers'])} here and "
            f"{printable(', '.join(map(str, workers)))} on worker {printable(index)}"
        )
    return index


def _reachable(workers, index):
    connection = _connected(workers[index], 5.0)
    if connection is None:
        print(
            f"{workers.name(index)} has come, but cannot be reached at that address from here",
            file=sys.stderr,
            flush=True,
        )
        return False
    connection.close()
    return True


def _report(workers, index, me, end):
    """The part of all others: the chief has let it go on."""
    waiting = _Waiting(workers, index, end)
    while True:
        waiting.about([0])
        connection = _connected(workers[0], 2.0)
        if connection and _let_go_on(connection, me, waiting):
            return connection
        time.sleep(0.2)


def _let_go_on(connection, me, waiting):
    """Whether the chief is at the other end, and all others have come to it; else the connection is closed.

    Raises:
        OtherError: they cannot train together, as the chief says.
    """
    with contextlib.ExitStack() as stack:
        stack.callback(connection.close)
        with contextlib.suppress(OSError):
            connection.sendall(json.dumps(me).encode() + b"\n")
            connection.settimeout(0.5)
            answer = b""
            while len(answer) < LONGEST_LINE:
                with contextlib.suppress(TimeoutError):
                    # No byte of what comes after the line: the Channel reads that.
                    read = connection.recv(1)
                    answer += read
                    if answer == GO:
                        connection.settimeout(None)
                        stack.pop_all()
                        return True
                    if answer.startswith(NO) and read == b"\n":
                        raise OtherError(printable(answer[len(NO) :].decode(errors="replace").strip()))
                    if not read or not (GO.startswith(answer) or answer.startswith(NO) or NO.startswith(answer)):
                        return False  # what answers there is no chief, or it has ended
                    continue
                waiting.about([0], "and those that it waits for")
    return False


class _Waiting:
    """Says whom a worker waits for: soon, then now and then, until it gives up."""

    def __init__(self, workers, index, end):
        self.workers, self.index, self.end = workers, index, end
        self.next = time.monotonic() + 2.0

    def about(self, missing, more=""):
        """Says so if it is time, or raises LostError."""
        now = time.monotonic()
        names = ", ".join(map(self.workers.name, missing[:8])) + (", ..." if len(missing) > 8 else "")
        names = f"{names} {more}".rstrip()
        who = f"worker {self.index} of {len(self.workers)}"
        if now >= self.end:
            raise LostError(
                f"{who}: expected all workers to come, {names} did not; start the same command on each, and look "
                "whether these addresses can be reached from here (TFYOLO_WAIT=SECONDS waits longer)"
            )
        if now >= self.next:
            left = f"gives up in {self.end - now:.0f} s"
            print(f"{who} ({self.workers[self.index]}) waits for {names}; {left}", file=sys.stderr, flush=True)
            self.next = now + TOLD_EVERY


# --- working together -------------------------------------------------------------------------------------------------

GRACE = 20.0  # seconds until a process is ended whose main thread did not leave by itself


class Channel:
    """The connections of one worker, listened to by a thread each.

    Args:
        workers: Workers.
        index: which of them this process is.
        sockets: what meet() returns.
        abort: called with a message where a worker is gone: it lets go of what waits for that one.
        on_signal: called, of the chief, with the number of a signal that another worker has received.

    Attributes:
        fault: the error that ends this worker too; None while all is well.
    """

    def __init__(self, workers, index, sockets, abort, on_signal):
        self.workers, self.index, self.sockets = workers, index, sockets
        self.abort, self.on_signal = abort, on_signal
        self.fault, self.ended, self.closed, self.inbox = None, set(), set(), queue.SimpleQueue()
        self.one_at_a_time, self.exit = threading.Lock(), None
        for other, connection in sockets.items():
            _keep_alive(connection)
            threading.Thread(target=self._listen, args=(other, connection), daemon=True).start()

    def send(self, data=b"", **message):
        """Sends a message, and bytes with it, to all that this worker is connected to."""
        line = json.dumps({**message, "bytes": len(data)}).encode() + b"\n"
        for connection in self.sockets.values():
            with contextlib.suppress(OSError):  # who listens there will find out
                connection.sendall(line + data)

    def receive(self, meanwhile=lambda: None):
        """Waits for the chief's next message.

        Args:
            meanwhile: called several times a second.

        Returns:
            (message, bytes)

        Raises:
            LostError, OtherError: the training has ended.
        """
        while True:
            with contextlib.suppress(queue.Empty):
                return self.inbox.get(timeout=0.2)
            if self.fault:
                raise self.fault
            meanwhile()

    def begin(self):
        """Begins a training; another may have ended before."""
        self.ended = set()
        for other in self.closed:
            self._end_all(other, self._gone(other))

    def end(self):
        """Waits until all workers have come to the end; that a connection closes is then no fault.

        Raises:
            LostError, OtherError: one has not.
        """
        self.send(kind="end")
        while len(self.ended) < len(self.sockets):
            if self.fault:
                raise self.fault
            time.sleep(0.02)
        if self.index == 0:
            self.send(kind="all")
        else:
            self.receive()

    def fail(self, text, code):
        """Tells the others of an error that ends this worker, and so all."""
        self.send(kind="failed", index=self.index, text=text, code=code)

    def leave(self):
        """The main thread has left the training by itself: it need not be ended."""
        if self.exit:
            self.exit.cancel()

    def _listen(self, other, connection):
        with contextlib.suppress(OSError, ValueError), connection.makefile("rb") as file:
            while line := file.readline(LONGEST_LINE):
                message = json.loads(line)
                data = file.read(message["bytes"])
                self._take(other, message, data)
        self.closed.add(other)
        if other not in self.ended:
            self._end_all(other, self._gone(other))

    def _gone(self, other):
        return LostError(
            f"{self.workers.name(other)} is gone, and with it the training; the same command on all workers, with "
            "--resume, goes on from last.h5"
        )

    def _take(self, other, message, data):
        kind = message["kind"]
        if kind == "end":
            self.ended.add(other)
        elif kind == "signal":
            self.on_signal(message["number"])
        elif kind == "failed":
            text = message["text"]
            if message["code"] == AGAIN:
                self._end_all(other, LostError(text))
            else:
                error = OtherError(f"{self.workers.name(message['index'])} ended with an error: {text}")
                error.exit_code = message["code"]
                self._end_all(other, error, message)
        else:
            self.inbox.put((message, data))

    def _end_all(self, other, fault, message=None):
        """Has this worker end, and if it is the chief, all others."""
        with self.one_at_a_time:
            if self.fault:
                return
            self.fault = fault
            self.exit = threading.Timer(GRACE, self._leave_at_once)
            self.exit.daemon = True
            self.exit.start()
        if self.index == 0:
            self.ended.add(other)
            self.send(**(message or {"kind": "failed", "index": other, "text": str(fault), "code": fault.exit_code}))
        self.abort(str(fault))

    def _leave_at_once(self):
        with contextlib.suppress(OSError):
            os.write(2, f"\nError: {self.fault}\n".encode())
        os._exit(self.fault.exit_code)


def _keep_alive(connection):
    """Has the system find out within half a minute that a machine is gone, which says no goodbye."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4), ("TCP_USER_TIMEOUT", 30_000)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
