"""The trust file, and the officers' signatures beside it: SSHSIG, as `ssh-keygen -Y sign` makes them (§10)."""

import base64
import re
import struct
import tomllib
from hashlib import new as new_hash
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from forms import Usage, key_id, signed_by

NAMESPACE = b"casemate-trust-v1"
ARMOUR = re.compile(rb"-----BEGIN SSH SIGNATURE-----\n([A-Za-z0-9+/=\n]+)-----END SSH SIGNATURE-----\n")
FIELDS = {"version", "self_asserted", "organisation", "issued", "quorum", "anchor_age_max", "retain_min", "retain_max",
          "officer", "recipient", "node"}
UNITS_US = {"ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
CURVES = {b"nistp256": (ec.SECP256R1(), hashes.SHA256()), b"nistp384": (ec.SECP384R1(), hashes.SHA384())}
RSA_HASHES = {b"rsa-sha2-256": hashes.SHA256(), b"rsa-sha2-512": hashes.SHA512()}


class Trust:
    """Whose signatures count, and how old an anchor may be."""

    def __init__(self, path):
        try:
            text = Path(path).read_bytes()
            file = tomllib.loads(text.decode())
            self.self_asserted = file["self_asserted"]
            self.anchor_age_us = duration_us(file["anchor_age_max"]) if "anchor_age_max" in file else None
            bounds = (duration_us(file[key]) if key in file else None for key in ("retain_min", "retain_max"))
            self.retain_min_us, self.retain_max_us = bounds
            self.keys, self.quorum, self.officers, self.issued_us = {}, 0, [], 0
            if not self.self_asserted:
                self.quorum, self.officers, self.issued_us = file["quorum"], file["officer"], time_us(file["issued"])
                able = {officer["name"] for officer in self.officers if counts(officer, self.issued_us)}
                if type(self.quorum) is not int or not 1 <= self.quorum <= 64 or self.quorum > len(able):
                    raise ValueError("quorum is 1 to 64, and as many officers can sign")
            if file.keys() - FIELDS:
                raise ValueError("a field that is not known")
            if file["version"] != 1 or not file["node"] or not isinstance(self.self_asserted, bool):
                raise ValueError("version, self_asserted and [[node]] must be there")
            for node in file["node"]:
                name, ident, key = node["key"].split("+", 2)
                key = base64.b64decode(key, validate=True)
                if len(key) != 33 or key[0] != 1 or key_id(name, key[1:]).hex() != ident:
                    raise ValueError("node.key is not NAME+ID+KEY")
                self.keys.setdefault(name, []).append((key[1:], *period(node)))
            beside = Path(f"{path}.sig")
            signatures = beside.read_bytes() if beside.is_file() else b""
            self.signers = self.signers_of(text, signatures, NAMESPACE, self.issued_us)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise Usage(f"{path} is no trust file: {error}") from None

    def signers_of(self, text, signatures, namespace, at_us):
        """The names of the officers whose signatures over the text count at that time."""
        known = {}
        for officer in self.officers:
            if counts(officer, at_us):
                known[base64.b64decode(officer["key"].split()[1], validate=True)] = officer["name"]
        signers = set()
        lines = b"".join(line.rstrip() + b"\n" for line in signatures.split(b"\n"))
        for armoured in ARMOUR.findall(lines):
            try:
                key = sshsig(base64.b64decode(armoured), text, namespace)
            except (ValueError, KeyError, IndexError, struct.error, InvalidSignature, UnsupportedAlgorithm):
                continue
            if key in known:
                signers.add(known[key])
        return signers

    def keeps(self, kept_us):
        """Whether a recording is kept as long as it must and no longer than it may."""
        return (self.retain_min_us or 0) <= max(kept_us, 0) <= (self.retain_max_us or 1 << 64)

    def doubts(self, now_us):
        """Why the file decides nothing."""
        if self.self_asserted:
            return ["the trust file comes from the bastion itself"]
        if len(self.signers) < self.quorum or now_us < self.issued_us:
            return [f"{len(self.signers)} officers signed the trust file, and {self.quorum} must; or it is of the future"]
        return []


def duration_us(text):
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h|d)", text).groups()
    return int(number) * UNITS_US[unit]


def time_us(moment):
    return round(moment.timestamp() * 1_000_000)


def period(entry):
    return time_us(entry["from"]), time_us(entry["until"]) if "until" in entry else None


def counts(officer, at_us):
    start, end = period(officer)
    return start <= at_us and (end is None or at_us < end)


def strings(data):
    """Takes apart a sequence of SSH strings."""
    out = []
    while data:
        (length,) = struct.unpack_from(">I", data)
        if len(data) < 4 + length:
            raise ValueError("a string ends early")
        out.append(data[4:4 + length])
        data = data[4 + length:]
    return out


def string(data):
    return struct.pack(">I", len(data)) + data


def sshsig(blob, message, wanted):
    """The public key that signed the message, in SSH's encoding; an error where none did, or none that may."""
    if blob[:10] != b"SSHSIG\0\0\0\1":
        raise ValueError("not SSHSIG")
    key, namespace, reserved, digest, signature = strings(blob[10:])
    if namespace != wanted or digest not in (b"sha256", b"sha512"):
        raise ValueError("another namespace or hash")
    hashed = new_hash(digest.decode(), message).digest()
    check(key, signature, b"SSHSIG" + b"".join(map(string, (namespace, reserved, digest, hashed))))
    return key


def check(key, signature, signed):
    kind, *parts = strings(key)
    size = struct.unpack_from(">I", signature)[0] + 4
    algorithm, rest = signature[4:size], signature[size:]
    length = struct.unpack_from(">I", rest)[0] + 4
    value, tail = rest[4:length], rest[length:]
    if kind.startswith(b"sk-"):
        flags, _ = struct.unpack(">BI", tail)
        if not flags & 1:
            raise ValueError("nobody touched the key")
        signed, tail = sha256(parts.pop()).digest() + tail + sha256(signed).digest(), b""
        kind, algorithm = kind[3:].removesuffix(b"@openssh.com"), algorithm[3:].removesuffix(b"@openssh.com")
    if tail:
        raise ValueError("bytes behind the signature")
    if kind == algorithm == b"ssh-ed25519":
        if not signed_by(parts[0], value, signed):
            raise ValueError("the signature does not fit")
    elif kind == algorithm == b"ecdsa-sha2-" + parts[0]:
        curve, digest = CURVES[parts[0]]
        r, s = (int.from_bytes(number, "big") for number in strings(value))
        public = ec.EllipticCurvePublicKey.from_encoded_point(curve, parts[1])
        public.verify(encode_dss_signature(r, s), signed, ec.ECDSA(digest))
    elif kind == b"ssh-rsa":
        public = load_ssh_public_key(b"ssh-rsa " + base64.b64encode(key))
        if not isinstance(public, rsa.RSAPublicKey) or not 3072 <= public.key_size <= 8192:
            raise ValueError("an RSA key of another size")
        public.verify(value, signed, padding.PKCS1v15(), RSA_HASHES[algorithm])
    else:
        raise ValueError("another algorithm")
