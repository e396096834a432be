#!/usr/bin/env python3
"""The second reader: verifies a vault from recorder/FORMAT.md alone, and shares no line with the first.

usage: verify.py VAULT [--trust FILE] [--checkpoint FILE]... [--slip LINE]... [--at MICROSECONDS]
       verify.py --batch FILE      (each line the arguments for one vault; prints one line for each)

Prints one JSON line a session and a last one with the verdict. Exit: 2 usage, 1 altered or missing, 4 cannot decide,
3 exceptions to explain, 0 clean; the first that applies. Nothing is decrypted or decompressed: links cover stored bytes.
"""

import json
import re
import shlex
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import transcript
from forms import Altered, Checkpoint, Usage, need
from log import CLOSE, Log, tile_name
from transcript import Chain
from trust import Trust

PENDING_US = 3_600_000_000  # A segment may be logged and not yet here for this long,
SILENCE_US = 180_000_000  # and a node with open sessions silent for this long.


class Session:
    """One opened session: what the log says of it, held against its files."""

    def __init__(self, log, session, files):
        self.log, self.session, self.files = log, session, files
        self.index, self.opened = log.opened[session]
        self.segments = [leaf for _, leaf in sorted(log.segments.get(session, {}).items())]
        self.end_index, self.end = log.ends.get(session, (self.index, None))
        self.anchored = self.end_index < log.anchored

    def judge(self, now_us):
        """Returns status, reason and whether that needs an explanation."""
        try:
            absent = self.check()
            need(self.index >= self.log.broken_below, "rests on leaves that do not fit a checkpoint")
        except Altered as error:
            return "altered", str(error), False
        except (TypeError, KeyError, IndexError, ValueError, OverflowError) as error:
            return "altered", f"has other fields than FORMAT.md gives it ({error!r})", False
        if absent and self.session in self.log.retired:
            proven = self.log.may_be_gone(self.session, now_us)
            return "retired" if proven else "missing", "the log says that it was deleted on purpose", proven
        gone = [leaf for leaf in absent if (self.session, leaf[2]) not in self.log.stored]
        if absent and not gone:
            return "pending", f"stored in {self.log.stored[self.session, absent[0][2]]}, not here", True
        if gone:
            ages = [self.log.clocks[self.log.named[self.session, leaf[2]] + 1].age for leaf in gone]
            late = self.log.clocks[-1].age - min(ages) > PENDING_US
            return "missing" if late else "pending", "a segment is logged and not in this vault", True
        if not self.anchored:
            return "unanchored", "no anchor covers its end in the log", False
        if self.end:
            clean = self.end[0] == CLOSE
            return "clean" if clean else "recovered", "" if clean else "cut by a crash", not clean
        later = any(index > self.index for index, _ in self.log.boots)
        return "open", "no end is logged", later or abs(now_us - self.log.clocks[-1].newest) > SILENCE_US

    def check(self):
        """Returns the leaves whose segments are not here; raises where those that are here are not as logged."""
        need([leaf[2] for leaf in self.segments] == list(range(len(self.segments))), "the log leaves out a segment")
        need(self.files.keys() <= set(range(len(self.segments))), "a segment that the log does not name")
        chain, absent = Chain(self.log, self.opened), []
        for leaf in self.segments:
            if leaf[2] in self.files:
                chain.segment(leaf[2], self.files[leaf[2]].read_bytes(), leaf)
            else:
                absent.append(leaf)
                chain.skip(leaf)
        if 0 in chain.points:
            need(chain.points[0][0] == self.opened[6], "the first HEAD is not the one that OPEN announced")
        if self.end:
            self.check_end(chain, absent)
        for block, link, events in self.log.heads.get(self.session, [])[1:]:
            need(chain.points.get(block, (link, events)) == (link, events), f"block {block} is not the one HEADS names")
            need(not self.end or block <= self.end[4], f"HEADS names block {block}, after the end")
        return absent

    def check_end(self, chain, absent):
        end, last = self.end, self.segments[-1]
        listed = [[leaf[2], leaf[4], leaf[8], leaf[7]] for leaf in self.segments]
        # A start that ends the session of another lists what it had to finish itself.
        later = any(self.index < index < self.end_index for index, _ in self.log.boots)
        at_least = 0 if later else min(len(listed), 700)
        need(end[6] == len(listed) and at_least <= len(end[7]) <= 700, "its end counts or lists other segments than were logged")
        need(end[7] == listed[len(listed) - len(end[7]):], "its end lists other segments than were logged")
        need((end[4], end[5]) == (last[6], last[7]), "its end names another last block")
        if last in absent:
            return
        said = chain.statement.get(0), chain.statement.get(1)
        if end[0] == CLOSE:
            need(chain.last_kind == transcript.CLOSE, "the log closes it, and its transcript does not")
            need(said[0] == end[2], "the log closes it for another reason")
        else:
            need(chain.last_kind == transcript.RECOVERED, "the log says it was recovered, and its transcript does not")
            need(said == (end[9], end[8]), "another start recovered it, or of another tail")


class Vault:
    """The files of a vault by what their names say. A name that begins with a dot says nothing."""

    SESSION = "([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})"
    SEGMENT = re.compile(f"v1/t/(?:(.*)/)?{SESSION}/([0-9]{{6,10}})[.]seg", re.DOTALL)
    LOG = re.compile("v1/log/([^/]+)/(cp/[^/]+/[^/]+[.]note|tile/.+)", re.DOTALL)

    def __init__(self, root):
        if not Path(root).is_dir():
            raise Usage(f"{root} is no directory")
        self.logs, self.sessions, self.findings, self.foreign = {}, {}, [], 0
        for path in sorted(Path(root).rglob("*")):
            name = path.relative_to(root).as_posix()
            if any(part.startswith(".") for part in name.split("/")):
                self.foreign += 1
            elif path.is_dir():
                if re.fullmatch("v1/log/[^/]+", name):
                    self.logs.setdefault(path.name, {})
            elif (match := self.LOG.fullmatch(name)) and (match[2].startswith("cp/") or tile_name(match[2])):
                self.logs[match[1]][match[2]] = path.read_bytes()
            elif (match := self.SEGMENT.fullmatch(name)) and self.is_number(match[3]):
                if self.at_home(match):
                    self.sessions.setdefault(UUID(match[2]).bytes, {})[int(match[3])] = path
                else:
                    self.findings.append(f"{name} poses as evidence")
            else:
                self.foreign += 1

    @staticmethod
    def is_number(text):
        """Whether this is how a segment's number is spelled."""
        return f"{int(text):06}" == text and int(text) < 1 << 32

    @staticmethod
    def at_home(match):
        """A session has one directory, on the day that its id begins with."""
        session = UUID(match[2])
        try:
            day = datetime.fromtimestamp((session.int >> 80) / 1000, UTC)
        except (ValueError, OverflowError, OSError):
            day = datetime.fromtimestamp(0, UTC)
        return (f"{day.year:04}/{day:%m/%d}", str(session)) == (match[1], match[2])


def judge(root, trust, kept, now_us):
    """Verifies one vault; returns the lines to print, the last one with the verdict."""
    vault, lines, tally, exception, unanchored = Vault(root), [], {}, False, False
    findings, doubts = vault.findings, []
    board = trust if trust and not trust.doubts(now_us) else None
    logs = [Log(name, files, trust, [one for one in kept if one.origin == name], board, now_us)
            for name, files in sorted(vault.logs.items())]
    findings += [f"the log of {one.origin} is gone" for one in kept if one.origin not in vault.logs]
    doubts += trust.doubts(now_us) if trust else ["no trust file was given"]
    if not logs:
        doubts.append("the vault holds no node log")
    doubts += [f"{name} is listed, and has no log here" for name in (trust.keys if trust else {}) if name not in vault.logs]
    for log in logs:
        findings += log.findings
        doubts += log.doubts
        if log.anchors and trust and trust.anchor_age_us is not None:
            if log.clocks[log.anchored].ahead() or now_us - log.as_of > trust.anchor_age_us:
                doubts.append(f"the newest anchor of {log.name} is older than the trust file allows, or of the future")
        for name in log.opened:
            session = Session(log, name, vault.sessions.pop(name, {}))
            status, reason, explain = session.judge(now_us)
            explain = explain or (trust is not None and not trust.keeps(session.opened[8] - session.opened[3]))
            exception, unanchored = exception or explain, unanchored or not session.anchored
            tally[status] = tally.get(status, 0) + 1
            lines.append({"session": str(UUID(bytes=name)), "status": status, "reason": reason})
    findings += [f"session {UUID(bytes=name)} is in no log" for name in vault.sessions]
    if findings or tally.keys() & {"altered", "missing"}:
        verdict, code = "altered", 1
    elif doubts or unanchored:
        verdict, code = "undecided", 4
    else:
        verdict, code = ("exceptions", 3) if exception else ("clean", 0)
    as_of = [log.as_of for log in logs]
    as_of = min(as_of) if as_of and None not in as_of else None
    lines.append({"verdict": verdict, "exit": code, "as_of": as_of, **tally, "findings": findings,
                  "undecided_because": doubts, "foreign": vault.foreign})
    return lines


def parse(arguments):
    root, trust, kept, now_us, rest = None, None, [], time.time_ns() // 1000, list(arguments)
    try:
        while rest:
            word = rest.pop(0)
            if word == "--trust":
                trust = Trust(rest.pop(0))
            elif word == "--checkpoint":
                kept.append(Checkpoint.note(Path(rest.pop(0)).read_bytes()))
            elif word == "--slip":
                kept.append(Checkpoint.slip(rest.pop(0)))
            elif word == "--at":
                now_us = int(rest.pop(0))
            elif root is None and not word.startswith("-"):
                root = word
            else:
                raise Usage(f"{word} is not known")
    except (IndexError, ValueError, OSError, Altered) as error:
        raise Usage(str(error)) from None
    if root is None:
        raise Usage("no vault is named")
    for one in kept:
        if trust and one.signer(trust) == "broken":
            raise Usage(f"the signature of a kept checkpoint of {one.origin} does not fit: was it copied whole?")
    return root, trust, kept, now_us


def answer(arguments):
    try:
        return judge(*parse(arguments))
    except Usage as error:
        return [{"verdict": "usage", "exit": 2, "as_of": None, "error": str(error)}]


def main(arguments):
    if arguments[:1] == ["--batch"]:
        for line in Path(arguments[1]).read_text().splitlines():
            *sessions, last = answer(shlex.split(line))
            last["sessions"] = {one["session"]: one["status"] for one in sessions}
            print(json.dumps(last), flush=True)
        return 0
    lines = answer(arguments)
    for line in lines:
        print(json.dumps(line))
    return lines[-1]["exit"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
