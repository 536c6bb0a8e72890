"""What is on the other side of ``tests.internet``: a port, a resolver and a multicast group.

Run as a script of its own: ``python far_side.py SETTINGS LOG``. A line of the
log is an address of ours that something came to.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import sys


def serve(settings: dict[str, object], log: str) -> None:
    """Answer, and write down what came."""
    port = int(str(settings["port"]))
    names = settings["names"]
    assert isinstance(names, dict)
    tcp = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.setsockopt(socket.IPPROTO_IP, 8, 1)
    udp.bind(("0.0.0.0", port))
    group = socket.inet_aton(str(settings["multicast"])) + struct.pack(
        "4sI", b"\0" * 4, socket.if_nametoindex("eth0")
    )
    udp.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
    dns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    dns.bind((str(settings["resolver"]), 53))
    print("ready", flush=True)
    with open(log, "a", buffering=1) as file:
        while True:
            for ready in select.select([tcp, udp, dns], [], [])[0]:
                if ready is tcp:
                    connection, _ = tcp.accept()
                    file.write(f"{connection.getsockname()[0].removeprefix('::ffff:')} tcp\n")
                    connection.sendall(b"hello\n")
                    connection.close()
                elif ready is udp:
                    data, ancillary, _, sender = udp.recvmsg(2048, 256)
                    where = socket.inet_ntoa(ancillary[0][2][8:12])
                    file.write(f"{where} udp\n")
                    udp.sendto(data, sender)
                else:
                    question, sender = dns.recvfrom(512)
                    dns.sendto(answer(question, names), sender)


def answer(question: bytes, names: dict[str, list[str]]) -> bytes:
    """What a resolver says: IPv4 addresses, or that there is no such name."""
    labels, place = [], 12
    while question[place]:
        length = question[place]
        labels.append(question[place + 1 : place + 1 + length].decode())
        place += 1 + length
    wants_v4 = question[place + 1 : place + 3] == b"\0\1"
    found = names.get(".".join(labels).lower())
    addresses = found if found is not None and wants_v4 else []
    code = 0x8180 if found is not None else 0x8183
    head = question[:2] + code.to_bytes(2, "big") + b"\0\1" + len(addresses).to_bytes(2, "big") + b"\0\0\0\0"
    records = [b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4" + socket.inet_aton(address) for address in addresses]
    return head + question[12 : place + 5] + b"".join(records)


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]), sys.argv[2])
