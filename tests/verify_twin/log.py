"""The log of one node, rebuilt from its entry bundles and held against every checkpoint there is (§8)."""

import re
from copy import copy
from datetime import datetime
from hashlib import sha256
from uuid import UUID

from forms import U8, U32, U64, Altered, Checkpoint, cbor, fields, fits, need

BOOT, HEARTBEAT, OPEN, SEGMENT, HEADS, CLOSE, RECOVERED, STORED = range(8)
RETIRED, LEGAL_HOLD = 9, 12
HOLD = b"casemate-hold-v1"
WIDTH = 256
ENDED = {1: 16, 2: U8, 3: U64, 4: U64, 5: 32, 6: U32, 7: list}
LEAF_FIELDS = {
    BOOT: {1: 16, 2: 32, 3: U64, 4: U64, 5: str, 6: U64},
    HEARTBEAT: {1: 16, 3: U64, 4: U64, 5: U64},
    OPEN: {1: 16, 2: U8, 3: U64, 4: U8, 5: U64, 6: 32, 7: 32, 8: U64},
    SEGMENT: {1: 16, 2: U32, 3: U64, 4: U64, 5: U64, 6: U64, 7: 32, 8: 32},
    HEADS: {3: U64, 4: list},
    CLOSE: ENDED,
    RECOVERED: ENDED | {8: U64, 9: 16},
    STORED: {1: 16, 2: U32, 3: U64, 4: str, 5: str, 6: 32, 7: U8, 8: U64},
    RETIRED: {1: 16, 3: U64},
    11: {1: 16, 2: str, 3: U64},
    LEGAL_HOLD: {1: 16, 2: range(2), 3: U64, 4: str, 5: str},
}
LISTED = {HEADS: (4, [16, U64, 32, U64]), CLOSE: (7, [U32, U64, 32, 32]), RECOVERED: (7, [U32, U64, 32, 32])}


def node_hash(left, right):
    return sha256(b"\1" + left + right).digest()


class Clocks:
    """What the clocks of the leaves so far say: how new the log is, and how long it was written."""

    AHEAD_US = 180_000_000

    def __init__(self, now_us):
        self.now_us, self.first, self.newest, self.highest, self.past, self.age, self.mark = now_us, None, 0, 0, 0, 0, None

    def after(self, leaf):
        """The clocks with one more leaf. Wall clocks are set, so that only steps forward count, as far as the boot clock went."""
        new, wall_us = copy(self), leaf[3]
        new.age += 0 if self.first is None else max(0, wall_us - self.newest)
        new.first = wall_us if self.first is None else self.first
        new.newest, new.highest = wall_us, max(self.highest, wall_us)
        new.past = max(self.past, wall_us) if wall_us <= self.now_us else self.past
        if leaf[0] in (BOOT, HEARTBEAT):
            if self.mark and leaf[4] >= self.mark[1]:
                new.age = min(new.age, self.mark[0] + leaf[4] - self.mark[1])
            new.mark = new.age, leaf[4]
        return new

    def known(self):
        return self.newest if self.newest <= self.now_us else self.past

    def ahead(self):
        return self.newest > self.now_us + self.AHEAD_US


class Log:
    """What the log says, and what is wrong with it."""

    def __init__(self, name, files, trust, kept, board, now_us):
        self.name, self.findings, self.doubts, self.anchors, self.broken_below = name, [], [], [], 0
        self.board, self.clocks = board, [Clocks(now_us)]
        self.trust, self.listed = trust, trust is not None and name in trust.keys
        heads = [(path, self.note(path, data), None) for path, data in files.items() if path.startswith("cp/")]
        heads = [head for head in heads if head[1]]
        if trust is not None and not self.listed:
            self.doubts.append(f"the trust file does not list {name}")
        if not heads:
            self.doubts.append(f"the log of {name} has no checkpoint")
        heads += [("a kept checkpoint", anchor, anchor) for anchor in kept]
        self.read(files, max((head.size for _, head, _ in heads), default=0))
        for what, head, anchor in heads:
            self.compare(what, head, anchor)
        ends = [end for _, _, end in trust.keys[name] if end is not None] if self.listed and self.leaves else []
        if ends and min(ends) <= (self.clocks[-1].first or 0):
            self.doubts.append(f"a key of {name} ended before its log here begins: the log that it signed is not here")
        if not self.anchors:
            self.doubts.append(f"no checkpoint of {name} is known from outside")
        self.anchored = max(self.anchors, default=0)
        self.as_of = self.clocks[self.anchored].known() if self.anchors else None

    def note(self, path, data):
        """A checkpoint of the vault, if it is one and signed by the node."""
        try:
            note = Checkpoint.note(data)
            need(path.split("/")[-1] == f"{note.size}-{note.root.hex()[:16]}.note", "is that of another size or root")
            need(note.origin == self.name, "is that of another log")
            need(not self.listed or note.signer(self.trust) == "node", "is not signed by a key that counts")
            return note
        except Altered as error:
            self.findings.append(f"{path}: {error}")
            return None

    def read(self, files, size):
        """Reads as many entries as a checkpoint covers; what lies behind is signed by nobody and proves nothing."""
        tiles = [(*tile_name(path), path, data) for path, data in files.items() if path.startswith("tile/")]
        bundles = {}
        for level, index, width, path, data in tiles:
            if level == "entries" and index * WIDTH < size:
                found = entries_of(data)
                if len(found) != width:
                    self.findings.append(f"{path} does not hold {width} entries")
                bundles.setdefault(index, []).append((width, path, found))
        self.entries = []
        for index in range((size + WIDTH - 1) // WIDTH):
            if len(self.entries) != index * WIDTH:
                break
            widest = max(bundles.get(index, [(0, "", [])]))[2]
            for _, path, found in bundles.get(index, ()):
                if found != widest[:len(found)]:
                    self.findings.append(f"{path} contradicts a wider one")
            self.entries += widest[:size - len(self.entries)]
        if len(self.entries) < size:
            self.findings.append(f"{len(self.entries)} leaves are here, and a checkpoint covers {size}")
        self.levels = [[sha256(b"\0" + entry).digest() for entry in self.entries]]
        while len(self.levels[-1]) > 1:
            below = self.levels[-1]
            self.levels.append([node_hash(below[i], below[i + 1]) for i in range(0, len(below) - 1, 2)])
        for level, index, width, path, data in tiles:
            hashes = self.levels[8 * level] if level != "entries" and 8 * level < len(self.levels) else []
            known = b"".join(hashes[index * WIDTH:index * WIDTH + width])
            if known and (not data.startswith(known) or len(data) != 32 * width):
                self.findings.append(f"{path} does not follow from the entries")
        self.leaves = []
        for index, entry in enumerate(self.entries):
            try:
                leaf = fields(cbor(entry), {0: U64})
                fields(leaf, LEAF_FIELDS.get(leaf[0], {}))
                at, shape = LISTED.get(leaf[0], (0, None))
                need(not at or all(fits(item, shape) for item in leaf[at]), "an item of a list is of another kind")
            except Altered as error:
                self.findings.append(f"leaf {index}: {error}")
                leaf = {0: -1}
            self.leaves.append(leaf)
            self.clocks.append(self.clocks[-1].after(leaf) if leaf[0] in LEAF_FIELDS else self.clocks[-1])
        self.sort_leaves()

    def sort_leaves(self):
        """Sorts the leaves by session; each is opened once, under the next ordinal, and nothing is said of another."""
        self.opened, self.segments, self.ends, self.heads, self.named = {}, {}, {}, {}, {}
        self.boots, self.boot_keys, self.stored, self.retired, self.holds = [], {}, {}, set(), {}
        for index, leaf in enumerate(self.leaves):
            try:
                self.sort_leaf(index, leaf)
            except Altered as error:
                self.findings.append(f"leaf {index}: {error}")

    def sort_leaf(self, index, leaf):
        kind = leaf[0]
        need(index > 0 or kind in (BOOT, -1), "the log does not begin with the start of a node")
        if kind == BOOT:
            need(leaf[6] <= index, f"a start saw {leaf[6]} leaves before it")
            self.boots.append((index, leaf[1]))
            self.boot_keys[leaf[1]] = leaf[2]
        elif kind == HEARTBEAT:
            need(leaf[1] in self.boot_keys, "a heartbeat of an unknown start")
        elif kind == OPEN:
            known, ordinal = leaf[1] in self.opened, len(self.opened)
            self.opened.setdefault(leaf[1], (index, leaf))
            need(leaf[5] == ordinal and not known, "sessions are opened once, by dense ordinals")
        elif kind in (SEGMENT, CLOSE, RECOVERED):
            need(leaf[1] in self.opened and leaf[1] not in self.ends, "speaks of a session that is not open")
            if kind == SEGMENT:
                known = self.segments.setdefault(leaf[1], {}).setdefault(leaf[2], leaf)
                self.named.setdefault((leaf[1], leaf[2]), index)
                need({**known, 3: 0} == {**leaf, 3: 0}, "a segment is logged twice, differently")
            else:
                self.ends[leaf[1]] = (index, leaf)
        elif kind == HEADS:
            for session, *point in leaf[4]:
                need(session in self.opened, "names the head of a session that is not open")
                points = self.heads.setdefault(session, [[0]])
                end = self.ends.get(session, (0, None))[1]
                need(point[0] >= points[-1][0] and (not end or point[:2] == [end[4], end[5]]), "a transcript went back")
                points.append(point)

        elif kind == STORED:
            logged = self.segments.get(leaf[1], {}).get(leaf[2])
            need(logged and logged[8] == leaf[6], "a segment is stored that was not logged so")
            self.stored.setdefault((leaf[1], leaf[2]), leaf[4])
        elif kind == RETIRED:
            self.retired.add(leaf[1])
            need(leaf[1] in self.ends, "retires a session that has not ended")
        elif kind == LEGAL_HOLD:
            self.hold(leaf)
            need(leaf[1] in self.opened, "holds a session that is not open")

    def hold(self, leaf):
        """A hold stands from the leaf that sets it until two officers order, later than it was set, that it be lifted."""
        session, set_it, wall_us, text, signatures = (leaf[key] for key in range(1, 6))
        verb, named, time_us = hold_order(text) or ("", "", wall_us)
        if set_it:
            time_us = time_us if verb == "set" else wall_us
            self.holds[session] = max(time_us, self.holds.get(session, 0))
        elif verb == "lift" and named == str(UUID(bytes=session)) and time_us > self.holds.get(session, -1):
            if self.board and len(self.board.signers_of(text.encode(), signatures.encode(), HOLD, time_us)) >= 2:
                self.holds.pop(session, None)

    def may_be_gone(self, session, now_us):
        """Whether the log's word that a session was retired has proof: an anchor is newer than it had to be kept."""
        until_us = self.opened[session][1][8]
        return session not in self.holds and any(until_us <= self.clocks[size].past <= now_us for size in self.anchors)

    def boot_before(self, index):
        return max((boot for boot in self.boots if boot[0] < index), default=(0, None))[1]

    def root(self, size):
        fold = None
        for level in range(size.bit_length()):
            if size >> level & 1:
                peak = self.levels[level][(size >> level) - 1]
                fold = peak if fold is None else node_hash(peak, fold)
        return fold or sha256(b"").digest()

    def compare(self, what, head, anchor):
        """Holds the tree against one signed root. An anchor counts when it fits and a key that counts signed it."""
        signer = head.signer(self.trust) if self.listed else "node"
        if signer != "node":
            self.findings.append(f"{what} is signed in the name of {self.name} by a key that is not trusted")
        if head.size > len(self.entries):
            return self.findings.append(f"{what} covers {head.size} leaves, and {len(self.entries)} are here")
        if self.root(head.size) != head.root:
            self.broken_below = max(self.broken_below, head.size)
            return self.findings.append(f"the first {head.size} leaves do not have the root of {what}")
        if self.listed and signer == "node" and head.size and not head.in_time(self.trust, self.clocks[head.size].highest):
            return self.findings.append(f"{what} is signed outside the period of its key")
        if anchor and signer == "node":
            if anchor.session and self.opened.get(anchor.session, (head.size,))[0] >= head.size:
                self.findings.append("a slip is for a session that the log does not know by then")
            self.anchors.append(head.size)
        return None


def hold_order(text):
    """Verb, session and time of an order about a hold; nothing where the text is none."""
    match = re.fullmatch(r"casemate-hold-v1 (set|lift) (\S+) (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)\n?", text, re.ASCII)
    try:
        return match and (match[1], match[2], int(datetime.fromisoformat(match[3]).timestamp()) * 1_000_000)
    except ValueError:
        return None


def tile_name(path):
    """Level, index and width of a tile or bundle by its name; nothing where the name is not spelled so."""
    match = re.fullmatch("tile/([0-9]{1,2}|entries)/((?:x[0-9]{3}/)*[0-9]{3})(?:[.]p/([0-9]{1,3}))?", path)
    if not match:
        return None
    level = match[1] if match[1] == "entries" else int(match[1])
    index, width = int(re.sub("[x/]", "", match[2])), int(match[3] or WIDTH)
    groups, rest = [f"{index % 1000:03}"], index // 1000
    while rest:
        groups, rest = [f"x{rest % 1000:03}", *groups], rest // 1000
    name = f"tile/{level}/{'/'.join(groups)}" + (f".p/{width}" if width < WIDTH else "")
    is_one = name == path and 1 <= width and index < 1 << 64 and (level == "entries" or level < 64)
    return (level, index, width) if is_one else None


def entries_of(data):
    """The entries of a bundle, each behind its length in two bytes; none of a bundle that ends inside one."""
    entries, at = [], 0
    while at < len(data):
        end = at + 2 + int.from_bytes(data[at:at + 2], "big")
        if end > len(data) or at + 2 > len(data):
            return []
        entries.append(data[at + 2:end])
        at = end
    return entries
