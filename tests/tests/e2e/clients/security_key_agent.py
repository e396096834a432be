"""An SSH agent that holds security keys and signs as an authenticator does: OpenSSH's PROTOCOL.u2f and PROTOCOL.agent.

Argument: a directory. It puts the public keys there, one socket for each way to sign, and at last a file `ready`.
The socket `right` signs rightly; the others change one thing between signature and message.
"""

import base64
import hashlib
import os
import socket
import struct
import sys
import threading

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

APPLICATION = b"ssh:"
USER_PRESENT = 0x01
FAILURE, IDENTITIES, SIGNATURE = b"\x05", b"\x0c", b"\x0e"
REQUEST_IDENTITIES, SIGN_REQUEST = 11, 13


def string(data):
    return struct.pack(">I", len(data)) + data


def mpint(number):
    # One byte more than the bits need, so that the sign bit is clear.
    return string(number.to_bytes(number.bit_length() // 8 + 1, "big"))


def take(data):
    (length,) = struct.unpack(">I", data[:4])
    return data[4 : 4 + length], data[4 + length :]


class Ed25519:
    name, file = b"sk-ssh-ed25519@openssh.com", "ed25519-sk"

    def __init__(self):
        self.key = ed25519.Ed25519PrivateKey.generate()
        raw = self.key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        self.blob = string(self.name) + string(raw) + string(APPLICATION)

    def sign(self, message):
        return self.key.sign(message)


class Ecdsa:
    name, file = b"sk-ecdsa-sha2-nistp256@openssh.com", "ecdsa-sk"

    def __init__(self):
        self.key = ec.generate_private_key(ec.SECP256R1())
        encoding, form = serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        point = self.key.public_key().public_bytes(encoding, form)
        self.blob = string(self.name) + string(b"nistp256") + string(point) + string(APPLICATION)

    def sign(self, message):
        r, s = decode_dss_signature(self.key.sign(message, ec.ECDSA(hashes.SHA256())))
        return mpint(r) + mpint(s)


keys = [Ed25519(), Ecdsa()]
counter = 41


def answer(request, way):
    global counter
    kind, rest = request[0], request[1:]
    if kind == REQUEST_IDENTITIES:
        listed = b"".join(string(key.blob) + string(key.file.encode()) for key in keys)
        return IDENTITIES + struct.pack(">I", len(keys)) + listed
    if kind != SIGN_REQUEST:
        return FAILURE
    blob, rest = take(rest)
    message, _flags = take(rest)
    found = [key for key in keys if key.blob == blob]
    if not found:
        return FAILURE
    counter += 1
    flags, count = USER_PRESENT, counter
    application = b"ssh:other" if way == "application" else APPLICATION
    digest = lambda data: hashlib.sha256(data).digest()
    signature = found[0].sign(digest(application) + struct.pack(">BI", flags, count) + digest(message))
    if way == "flags":
        flags |= 0x04
    if way == "counter":
        count += 1
    return SIGNATURE + string(string(found[0].name) + string(signature) + struct.pack(">BI", flags, count))


def exactly(connection, length):
    data = b""
    while len(data) < length:
        part = connection.recv(length - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def serve(connection, way):
    try:
        while True:
            (length,) = struct.unpack(">I", exactly(connection, 4))
            connection.sendall(string(answer(exactly(connection, length), way)))
    except (EOFError, ConnectionError):
        connection.close()


def listen(at, way):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(os.path.join(at, way))
    listener.listen()

    def loop():
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=serve, args=(connection, way), daemon=True).start()

    return threading.Thread(target=loop)


directory = sys.argv[1]
for key in keys:
    with open(os.path.join(directory, key.file + ".pub"), "w") as out:
        out.write("%s %s\n" % (key.name.decode(), base64.b64encode(key.blob).decode()))
threads = [listen(directory, way) for way in ("right", "flags", "counter", "application")]
for thread in threads:
    thread.start()
with open(os.path.join(directory, "ready"), "w") as out:
    out.write("ready\n")
