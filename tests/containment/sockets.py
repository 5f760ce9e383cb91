"""Sockets of every family: to the host's loopback, to the outside, and those that no program in a box needs."""

from __future__ import annotations

from tests.containment.probe import Probe

FAMILIES = {
    "AF_AX25": 3, "AF_IPX": 4, "AF_X25": 9, "AF_KEY": 15, "AF_PACKET": 17, "AF_RDS": 21, "AF_PPPOX": 24, "AF_LLC": 26,
    "AF_CAN": 29, "AF_TIPC": 30, "AF_BLUETOOTH": 31, "AF_RXRPC": 33, "AF_PHONET": 35, "AF_ALG": 38, "AF_NFC": 39,
    "AF_VSOCK": 40, "AF_KCM": 41, "AF_QIPCRTR": 42, "AF_SMC": 43, "AF_XDP": 44, "AF_MCTP": 45,
}  # fmt: skip
EVERY_TYPE = """
def some(family, kind):
    fd = call("socket", family, kind, 0)
    return f"a socket of family {family & 0xffffffff}, type {kind}"
"""
CONNECT = """
def connect(family, address):
    with socket.socket(family) as s:
        s.settimeout(2)
        s.connect(address)
        return s.recv(100).decode() == HOST["token"] and f"connected to {address}"
"""

PROBES = [
    Probe("the host's loopback, IPv4", CONNECT + "return connect(socket.AF_INET, ('127.0.0.1', HOST['tcp'][0]))"),
    Probe("the host's loopback, IPv6", CONNECT + "return connect(socket.AF_INET6, ('::1', HOST['tcp'][1]))"),
    Probe(
        "the host's own address",
        CONNECT
        + "return first([lambda a=a: connect(socket.AF_INET, (a, HOST['anywhere'])) for a in [*HOST['own'], '0.0.0.0']])",
    ),
    Probe(
        "a route to the outside",
        """
def route(family, address):
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        s.connect((address, 9))  # sends nothing
        return f"a route by {s.getsockname()[0]}"
tries = [lambda: route(socket.AF_INET, "192.0.2.1"), lambda: route(socket.AF_INET6, "2001:db8::1")]
return first(tries) or (HOST["own"] == [] and HOST["control"] and "this machine has none")
""",
    ),
    Probe(
        "a datagram to the host's loopback",
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', HOST['udp']))\ntime.sleep(0.05)",
    ),
    Probe("an abstract socket of the host", CONNECT + "return connect(socket.AF_UNIX, '\\0' + HOST['abstract'])"),
    Probe("a socket file of the host", CONNECT + "return connect(socket.AF_UNIX, HOST['unix'])"),
    Probe(
        "sockets that are listed",
        """
names = [line.split()[-1] for line in open("/proc/net/unix").read().splitlines()[1:] if len(line.split()) > 7]
def connect(name):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect("\\0" + name[1:] if name[0] == "@" else name)
        return "connected to " + name
return first([lambda n=n: connect(n) for n in names])
""",
    ),
    Probe(
        "the host's network devices",
        "names = [n for _, n in socket.if_nameindex() if n != 'lo']\n"
        "return names and f'sees {names}' or (HOST['control'] and HOST['own'] == [] and 'none here')",
    ),
    Probe(
        "the host's connections in /proc/net",
        "return format(HOST['tcp'][0], '04X') in open('/proc/net/tcp').read() and 'listed'",
    ),
    Probe(
        "news of the host's devices",
        "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15).bind((0, 1))\nreturn 'listens to them'",
    ),
    Probe("the packet filter", "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)\nreturn 'speaks to it'"),
    Probe("audit", "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 9)\nreturn 'speaks to it'"),
    Probe("raw IP", "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)\nreturn 'sends what it likes'"),
    Probe("raw IPv6", "socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58)\nreturn 'sends what it likes'"),
    *(
        Probe(name, f"{EVERY_TYPE}\nreturn first([lambda k=k: some({number}, k) for k in (1, 2, 3, 5)])")
        for name, number in FAMILIES.items()
    ),
    Probe(
        "every other family",
        EVERY_TYPE
        + "\nreturn first([lambda f=f, k=k: some(f, k) for f in range(64) if f not in (1, 2, 10, 16) for k in (1, 2, 3, 5)])",
    ),
    Probe(
        "a family whose number has its upper half set",
        EVERY_TYPE
        + "\nreturn first([lambda f=f, k=k: some(1 << 32 | f, k) for f in (40, 38, 17, 30, 44, 31) for k in (1, 2, 3, 5)])",
    ),
    Probe(
        "pairs of every other family",
        """
def pair(family, kind):
    both = ctypes.create_string_buffer(8)
    call("socketpair", family, kind, 0, both)
    return f"a pair of family {family}"
def asked(family, kind):
    # which families are there to be asked is the kernel's; that it was asked at all is what counts
    try:
        return pair(family, kind)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return f"family {family} was asked"
        raise
families = (30, 40, 17, 38, 2, 16) if HOST["control"] else (30, 40, 17, 38)
return first([lambda f=f, k=k: asked(f, k) for f in families for k in (1, 2, 5)])
""",
    ),
    Probe(
        "calls by the 32-bit entry",
        """
import mmap
if os.uname().machine != "x86_64":
    raise OSError(errno.ENOSYS, "no such entry on this machine")
# mov eax, 20 (getpid); int 0x80; ret -- whatever number it is, the filter does not know it
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(b"\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3")
entry = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
print("asks", flush=True)
return entry() == os.getpid() and "it is answered"
""",
        may_be_killed=True,
    ),
]
