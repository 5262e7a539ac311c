"""A TPM that takes its time for quotes: passes the commands of one client at a time on to swtpm, and holds each TPM2_Quote for a while.

    slow_tpm.py UPSTREAM_PORT DELAY_MS PORT_FILE COUNT_FILE

Both ports of swtpm are served, commands at the port written to PORT_FILE and control at the next one. COUNT_FILE grows by a byte for each quote.
"""

import pathlib
import socket
import struct
import sys
import threading
import time

QUOTE = 0x00000158  # TPM 2.0 Part 2, 6.5.2: TPM_CC_Quote
HEADER = 10


def exactly(stream, count):
    """That many bytes, or none at the end of the stream."""
    data = b""
    while len(data) < count:
        more = stream.recv(count - len(data))
        if not more:
            return b""
        data += more
    return data


def message(stream):
    """A command or a response: tag, size, code, and the rest of `size` bytes (TPM 2.0 Part 1, 18)."""
    header = exactly(stream, HEADER)
    if not header:
        return None, b""
    _, size, code = struct.unpack(">HII", header)
    return code, header + exactly(stream, size - HEADER)


def serve_commands(client, upstream, delay, count):
    while True:
        code, command = message(client)
        if code is None:
            return
        if code == QUOTE:
            time.sleep(delay)
            with count.open("ab") as file:
                file.write(b"q")
        upstream.sendall(command)
        _, response = message(upstream)
        if not response:
            return
        client.sendall(response)


def serve_control(client, upstream):
    def pump(source, sink):
        while data := source.recv(4096):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)

    answers = threading.Thread(target=pump, args=(upstream, client), daemon=True)
    answers.start()
    pump(client, upstream)
    answers.join()


def accept(listener, port, serve):
    while True:
        client, _ = listener.accept()
        with client, socket.create_connection(("127.0.0.1", port)) as upstream:
            try:
                serve(client, upstream)
            except OSError:
                pass


def pair():
    """Listeners at two ports next to each other."""
    while True:
        first = socket.create_server(("127.0.0.1", 0))
        port = first.getsockname()[1]
        try:
            return port, first, socket.create_server(("127.0.0.1", port + 1))
        except (OSError, OverflowError):
            first.close()


def main():
    upstream, delay, port_file, count = int(sys.argv[1]), int(sys.argv[2]) / 1000, sys.argv[3], pathlib.Path(sys.argv[4])
    port, commands, control = pair()
    count.touch()
    pathlib.Path(port_file).write_text(f"{port}\n")
    threading.Thread(target=accept, args=(control, upstream + 1, serve_control), daemon=True).start()
    accept(commands, upstream, lambda client, swtpm: serve_commands(client, swtpm, delay, count))


if __name__ == "__main__":
    main()
