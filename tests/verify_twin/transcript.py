"""The blocks of a transcript: every byte of every segment against the chain, and against what the log says (§3 to §7)."""

from functools import lru_cache
from hashlib import sha256

from forms import U32, U64, cbor, fields, need, signed_by

try:
    from blake3 import blake3

    def derive_key(context, data):
        return blake3(data, derive_key_context=context).digest()
except ImportError:
    from derive import derive_key

HEAD, DATA, MICRO, SEAL, INDEX, CLOSE, RECOVERED = range(7)
HEAD_FIELDS = {0: range(1, 2), 1: str, 2: 16, 3: range(3), 4: range(2), 5: range(3), 6: 32, 7: U64, 8: 32, 9: [bytes] * 3, 10: 16,
               11: str, 12: [U64] * 3, 13: [32] * 3}
CLOSE_FIELDS = {0: range(7), 1: U32, 2: [U64] * 3, 3: [U64] * 2, 4: U32, 5: U64}
RECOVERED_FIELDS = {0: 16, 1: U64, 2: 32, 3: [U64] * 3, 4: U32, 5: U64}


@lru_cache(maxsize=100_000)
def link_of(block):
    return derive_key("casemate 2026-11-22 block link", block)


class Chain:
    """What runs on from block to block over all segments of a transcript."""

    def __init__(self, log, opened):
        self.log, self.opened, self.session = log, opened, opened[1]
        self.next_block, self.link, self.counts = 0, bytes(32), [0, 0, 0]
        self.points, self.last_kind, self.statement = {}, None, {}

    def segment(self, no, data, leaf):
        """Checks one segment against its leaf, and every byte of it against the chain."""
        need(len(data) == leaf[4] and sha256(data).digest() == leaf[8], f"segment {no} is not the file that was logged")
        need(self.next_block == leaf[5], f"segment {no} does not begin where the one before ended")
        index_at, index_len = int.from_bytes(data[-16:-8], "little"), int.from_bytes(data[-8:-4], "little")
        need(data[-4:] == b"CMTE", f"segment {no} has no trailer")
        at, rows, kinds = 0, b"", []
        while at < len(data) - 16:
            kind, length, row = self.block(no, data, at, rows)
            kinds.append((kind, at, length))
            rows += row
            at += length
        need(at == len(data) - 16, f"segment {no}: the last block runs into the trailer")
        need(len(kinds) > 2 and kinds[-2] == (INDEX, index_at, index_len), f"segment {no}: the trailer names no index")
        need(kinds[-1][0] in (SEAL, CLOSE, RECOVERED), f"segment {no} is not sealed")
        need((self.next_block - 1, self.link) == (leaf[6], leaf[7]), f"segment {no} does not end as logged")

    def block(self, no, data, at, rows):
        def number(offset, width):
            return int.from_bytes(data[at + offset:at + offset + width], "little")

        where = f"segment {no}, byte {at}"
        kind, lane, codec, suite, stored = number(4, 1), number(5, 1), number(6, 1), number(7, 1), number(8, 4)
        header, payload = data[at:at + 160], data[at + 160:at + 160 + stored]
        need(header[:4] == b"CMT1" and suite == 1 and codec <= 3 and lane <= 2, f"{where}: no block of this version")
        need(stored <= 1_114_112 and number(12, 4) <= 1_048_576, f"{where}: a length beyond the limits")
        need(number(32, 8) == self.next_block and number(52, 4) == no, f"{where}: a block is missing or out of order")
        need(header[16:32] == self.session, f"{where}: a block of another session")
        need(header[96:128] == self.link, f"{where}: the chain is broken")
        link = data[at + 160 + stored:at + 192 + stored]
        need(link_of(header + payload) == link, f"{where}: the link does not fit the bytes")
        need((kind == HEAD) == (at == 0), f"{where}: HEAD is the first block and nowhere else")
        need(self.last_kind not in (CLOSE, RECOVERED), f"{where}: a block after the end")
        if kind in (HEAD, SEAL, INDEX, CLOSE, RECOVERED):
            need(codec == 0 and number(12, 4) == stored, f"{where}: only DATA and MICRO are compressed or encrypted")
        row = b"".join((at.to_bytes(8, "little"), header[32:40], header[64:72], header[40:48], link))
        if kind == HEAD:
            self.head(fields(cbor(payload), HEAD_FIELDS, (4, 9, 13)), no)
        elif kind in (DATA, MICRO):
            need(number(40, 8) == self.counts[lane], f"{where}: events are missing")
            self.counts[lane] += number(48, 4)
        elif kind == INDEX:
            need(payload == rows, f"{where}: the index is not that of the blocks before it")
        elif kind in (SEAL, CLOSE, RECOVERED):
            self.seal(kind, header, payload, no, where)
        self.link, self.last_kind = link, kind
        self.points[self.next_block] = (link, sum(self.counts))
        self.next_block += 1
        return kind, 192 + stored, row

    def skip(self, leaf):
        """Goes on behind a segment that is not here: the log says where it ended, the next HEAD how many events it had."""
        self.next_block, self.link, self.counts = leaf[6] + 1, leaf[7], None

    def head(self, head, no):
        need(head.keys() <= HEAD_FIELDS.keys(), f"segment {no}: HEAD has fields of another format")
        opened, boot = self.opened, self.log.boot_before(self.log.opened[self.session][0])
        said = (head.get(0), head.get(1), head.get(2), head.get(3), head.get(4, -1) + 1, head.get(6), head.get(7))
        logged = (1, self.log.name, boot, opened[2], opened[4], opened[7], opened[5])
        need(said == logged, f"segment {no}: HEAD is not what OPEN announced")
        self.counts = list(head.get(12, ())) if self.counts is None else self.counts
        need(head.get(12) == self.counts, f"segment {no}: HEAD counts other events before it")

    def seal(self, kind, header, payload, no, where):
        statement, signature = payload[:-64], payload[-64:]
        key = self.opened[7]
        if kind != SEAL:
            shapes, totals = (CLOSE_FIELDS, 2) if kind == CLOSE else (RECOVERED_FIELDS, 3)
            self.statement = fields(cbor(statement), shapes, (1,) if kind == CLOSE else ())
            need(self.statement.keys() <= shapes.keys(), f"{where}: fields of another format")
            need(self.statement[totals] == self.counts, f"{where}: totals are not those of the blocks")
            need(self.statement[4] == no + 1, f"{where}: another number of segments")
        else:
            need(statement == b"", f"{where}: SEAL has no statement")
        if kind == RECOVERED:
            key = self.log.boot_keys.get(self.statement.get(0), bytes(32))
        message = b"casemate 2026-11-22 seal\0" + header + statement
        need(signed_by(key, signature, message), f"{where}: the seal is not by the key that the log names")
