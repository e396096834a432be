"""Forms that others defined: deterministic CBOR (RFC 8949), Ed25519 (RFC 8032), signed notes (C2SP)."""

import base64
import re
from hashlib import sha256
from uuid import UUID

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

P = 2**255 - 19
# The y coordinates of the points of small order, with the two that also have a form of 255 bits that is not reduced.
Y8 = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD83D3D706A17C7
U8, U32, U64 = range(1 << 8), range(1 << 32), range(1 << 64)
SMALL_ORDER = {0, 1, P - 1, P, P + 1, Y8, P - Y8}


class Altered(Exception):
    """Evidence is not what was signed."""


class Usage(Exception):
    """The question cannot be put this way."""


def need(condition, why):
    if not condition:
        raise Altered(why)


def signed_by(key, signature, message):
    """Ed25519, strictly: no point of small order may stand in for a key or a nonce."""
    low = (1 << 255) - 1
    if any(int.from_bytes(point, "little") & low in SMALL_ORDER for point in (key, signature[:32])):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def cbor(data):
    """One item of deterministic CBOR, whole."""
    value, end = cbor_item(data, 0, 0)
    need(end == len(data), "bytes after a CBOR item")
    return value


def cbor_item(data, at, depth):
    need(at < len(data) and depth <= 5, "CBOR ends early or nests too deep")
    major, short = data[at] >> 5, data[at] & 31
    at += 1
    if short < 24:
        number = short
    else:
        need(short < 28, "CBOR of indefinite length")
        width = 1 << (short - 24)
        number = int.from_bytes(data[at:at + width], "big")
        need(at + width <= len(data) and number >= (24 if width == 1 else 1 << (4 * width)), "CBOR not in its short form")
        at += width
    if major == 0:
        return number, at
    if major in (2, 3):
        need(at + number <= len(data), "CBOR string ends early")
        text = data[at:at + number]
        try:
            return (text if major == 2 else text.decode()), at + number
        except UnicodeDecodeError:
            raise Altered("CBOR text is not UTF-8") from None
    need(major in (4, 5) and number <= len(data), "CBOR of an unknown kind")
    if major == 4:
        items = []
        for _ in range(number):
            item, at = cbor_item(data, at, depth + 1)
            items.append(item)
        return items, at
    fields = {}
    for _ in range(number):
        key, at = cbor_item(data, at, depth + 1)
        need(isinstance(key, int) and key > max(fields, default=-1), "CBOR keys out of order")
        fields[key], at = cbor_item(data, at, depth + 1)
    return fields, at


def fits(value, shape):
    """Whether a value has a shape: a range of integers, a length of bytes, a list of shapes, or a type."""
    if isinstance(shape, range):
        return isinstance(value, int) and value in shape
    if isinstance(shape, int):
        return isinstance(value, bytes) and len(value) == shape
    if isinstance(shape, list):
        return isinstance(value, list) and len(value) == len(shape) and all(map(fits, value, shape))
    return isinstance(value, shape)


def fields(value, shapes, optional=()):
    """A map whose fields have these shapes; those that are optional may be absent."""
    need(isinstance(value, dict), "not a map")
    for key, shape in shapes.items():
        need(fits(value[key], shape) if key in value else key in optional, f"field {key} is missing or of another kind")
    return value


def key_id(name, key):
    return sha256(name.encode() + b"\n\x01" + key).digest()[:4]


class Checkpoint:
    """A signed head of a node's log."""

    def __init__(self, origin, size, root, signatures):
        need(re.fullmatch(r"0|[1-9]\d{0,18}", size), "a size is a plain number")
        self.origin, self.size, self.signatures, self.session = origin, int(size), signatures, None
        try:
            self.root = base64.b64decode(root, validate=True)
        except ValueError:
            self.root = b""
        need(len(self.root) == 32 and base64.b64encode(self.root).decode() == root, "a root is 32 bytes in base64")
        self.message = f"{origin}\n{size}\n{root}\n".encode()

    @classmethod
    def note(cls, data):
        try:
            text, notes = data.decode().split("\n\n")
            origin, size, root = text.split("\n")
            need(notes.endswith("\n"), "a note ends with a line feed")
            lines = [re.fullmatch("— ([^ ]+) ([A-Za-z0-9+/=]+)", line) for line in notes[:-1].split("\n")]
            need(all(lines), "a line of signature is malformed")
            return cls(origin, size, root, [(line[1], base64.b64decode(line[2], validate=True)) for line in lines])
        except ValueError:
            raise Altered("not a checkpoint") from None

    @classmethod
    def slip(cls, line):
        try:
            word, origin, size, root, signature, session = line.split(" ")
            made = cls(origin, size, root, [(origin, base64.b64decode(signature, validate=True))])
            made.session = UUID(session).bytes
        except ValueError:
            raise Altered("not a slip") from None
        need(word == "casemate-slip", "not a slip")
        return made

    def signer(self, trust):
        """Tells who signed: the `node`, `another` key, or its key, and the signature is `broken`."""
        verdict = "another"
        for key, _, _ in trust.keys.get(self.origin, ()):
            for name, signature in self.signatures:
                if name == self.origin and signature[:4] == key_id(name, key):
                    if signed_by(key, signature[4:], self.message):
                        return "node"
                    verdict = "broken"
                    break
        return verdict if self.origin in trust.keys else "node"

    def in_time(self, trust, wall_us):
        """Whether the key that signed counted at that time."""
        return any(start <= wall_us and (end is None or wall_us < end) for key, start, end in trust.keys[self.origin]
                   if any(signed_by(key, signature[4:], self.message) for _, signature in self.signatures))
