//! A small server that knows which of its answers is for which message: random pipelines with random errors, and whatever of
//! them arrives first, every completion is told of the right message.

use std::collections::HashMap;
use std::time::Duration;

use casemate_recorder::transcript::event::{Side, pg_done, pg_lost};

use super::tests::{Talk, client_frame, line, target_frame};
use super::{Results, Verdict};

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % sides as u64) as usize
    }

    fn one_in(&mut self, sides: usize) -> bool {
        self.roll(sides) == 0
    }
}

/// What a statement does when it is executed.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Does {
    Rows(usize),
    Change(usize),
    Begin,
    Commit,
    CopyIn,
    CopyOut(usize),
    Empty,
    Fail,
}

#[derive(Debug, Clone)]
enum Message {
    Query(Vec<Does>),
    Call,
    Parse(&'static str, Does),
    Bind(&'static str, &'static str),
    DescribeStatement(&'static str),
    DescribePortal(&'static str),
    /// With the most rows that are wanted, 0 for all.
    Execute(&'static str, usize),
    CloseStatement(&'static str),
    ClosePortal(&'static str),
    Flush,
    Sync,
    Data(usize),
    CopyDone,
    CopyFail,
}

impl Message {
    fn word(&self) -> String {
        match self {
            Self::Query(_) => "Q".to_owned(),
            Self::Call => "F".to_owned(),
            Self::Parse(name, _) => format!("P{name}"),
            Self::Bind(portal, statement) => format!("B{portal}={statement}"),
            Self::DescribeStatement(name) => format!("DS{name}"),
            Self::DescribePortal(name) => format!("DP{name}"),
            Self::Execute(portal, _) => format!("E{portal}"),
            Self::CloseStatement(name) => format!("CS{name}"),
            Self::ClosePortal(name) => format!("CP{name}"),
            Self::Flush => "H".to_owned(),
            Self::Sync => "S".to_owned(),
            Self::Data(len) => format!("d{len}"),
            Self::CopyDone => "c".to_owned(),
            Self::CopyFail => "f".to_owned(),
        }
    }
}

/// A client that pipelines what comes to its mind, and only sends data where a COPY may read it.
fn client(dice: &mut Dice) -> Vec<Message> {
    const NAMES: [&str; 4] = ["", "", "a", "b"];
    let mut messages = Vec::new();
    let does = |dice: &mut Dice| match dice.roll(10) {
        0..3 => Does::Rows(dice.roll(5)),
        3 | 4 => Does::Change(dice.roll(9)),
        5 => Does::Begin,
        6 => Does::CopyOut(dice.roll(4)),
        7 => Does::Empty,
        8 => Does::Fail,
        _ => Does::Rows(0),
    };
    for _ in 0..1 + dice.roll(12) {
        let (name, other) = (NAMES[dice.roll(4)], NAMES[dice.roll(4)]);
        match dice.roll(16) {
            0 => {
                let mut statements: Vec<_> = (0..1 + dice.roll(3)).map(|_| does(dice)).collect();
                if dice.one_in(3) {
                    statements.push(Does::Commit);
                }
                for _ in 0..dice.roll(3) {
                    let at = dice.roll(statements.len() + 1);
                    statements.insert(at, Does::CopyIn);
                }
                let copies = statements.iter().filter(|does| **does == Does::CopyIn).count();
                messages.push(Message::Query(statements));
                (0..copies).for_each(|_| zone(dice, &mut messages));
            }
            1 => messages.push(Message::Call),
            2 => {
                messages.extend([Message::Parse("", Does::CopyIn), Message::Bind("", ""), Message::Execute("", 0)]);
                zone(dice, &mut messages);
                messages.push(Message::Sync);
            }
            3 => {
                messages.extend([Message::Parse("", Does::Commit), Message::Bind("", ""), Message::Execute("", 0)]);
                messages.push(Message::Sync);
            }
            4..7 => {
                messages.extend([Message::Parse("", does(dice)), Message::Bind("", ""), Message::Execute("", 0)]);
            }
            7 => messages.push(Message::Parse(name, does(dice))),
            8 => messages.push(Message::Bind(name, other)),
            9 => messages.push(Message::DescribeStatement(name)),
            10 => messages.push(Message::DescribePortal(name)),
            11 | 12 => messages.push(Message::Execute(name, 1 + dice.roll(3))),
            13 => messages.push(Message::CloseStatement(name)),
            14 => messages.push(Message::ClosePortal(name)),
            _ => messages.push(Message::Flush),
        }
        if dice.one_in(3) {
            messages.push(Message::Sync);
        }
    }
    messages.push(Message::Sync);
    messages
}

/// What a client sends when it may be in a COPY.
fn zone(dice: &mut Dice, messages: &mut Vec<Message>) {
    for _ in 0..dice.roll(5) {
        messages.push(match dice.roll(6) {
            0 => Message::Sync,
            1 => Message::Flush,
            _ => Message::Data(dice.roll(20)),
        });
    }
    messages.push(if dice.one_in(5) { Message::CopyFail } else { Message::CopyDone });
}

/// What a portal was executed so far.
#[derive(Debug, Clone, Default)]
struct Moved {
    number: u64,
    rows: usize,
    bytes: usize,
    batches: usize,
}

#[derive(Debug, Clone)]
struct Portal {
    parse: u64,
    bind: u64,
    does: Does,
    left: usize,
    executed: bool,
    suspended: Option<Moved>,
}

/// The server, while it works through what the client sent.
struct Server<'d> {
    dice: &'d mut Dice,
    messages: &'d [Message],
    /// The message that is read next, and how many before it were no data.
    next: usize,
    number: u64,
    statements: HashMap<&'static str, (u64, Does)>,
    portals: HashMap<&'static str, Portal>,
    status: char,
    ignoring: bool,
    /// Whether the next error is the last.
    desperate: bool,
    /// What it says, with the number of messages that it had read by then.
    said: Vec<(usize, String)>,
    expected: Vec<String>,
}

/// The connection ends.
struct Fatal;

impl Server<'_> {
    fn read(&mut self) -> Option<(u64, Message)> {
        let message = self.messages.get(self.next)?.clone();
        let number = self.number;
        self.next += 1;
        self.number += u64::from(!matches!(message, Message::Data(_)));
        Some((number, message))
    }

    fn say(&mut self, word: impl Into<String>) {
        while self.dice.one_in(20) {
            let word = ["N00000", "A", "S"][self.dice.roll(3)];
            self.said.push((self.next, word.to_owned()));
        }
        self.said.push((self.next, word.into()));
    }

    fn run(&mut self) {
        while let Some((number, message)) = self.read() {
            if self.ignoring && !matches!(message, Message::Sync) {
                match message {
                    Message::Query(_) => self.expected.push(format!("{number} skipped")),
                    Message::Call | Message::Execute(..) => self.expected.push(format!("{number} skipped")),
                    _ => {}
                }
                continue;
            }
            self.ignoring = false;
            if self.message(number, message).is_err() {
                break;
            }
        }
        while let Some((number, message)) = self.read() {
            if let Message::Query(_) | Message::Call | Message::Execute(..) = message {
                self.expected.push(format!("{number} unanswered"));
            }
        }
        self.end_portals();
    }

    fn end_portals(&mut self) {
        let portals: Vec<_> = self.portals.drain().map(|(_, portal)| portal).collect();
        portals.into_iter().for_each(|portal| self.drop_portal(Some(portal)));
    }

    fn drop_portal(&mut self, portal: Option<Portal>) {
        if let Some(Portal { suspended: Some(moved), parse, bind, .. }) = portal {
            self.tell("suspended", Some((parse, bind)), None, &moved, 0, None);
        }
    }

    fn tell(
        &mut self,
        outcome: &str,
        from: Option<(u64, u64)>,
        index: Option<usize>,
        moved: &Moved,
        copied: usize,
        tag: Option<&str>,
    ) {
        let mut line = format!("{} {outcome}", moved.number);
        if let Some((parse, bind)) = from {
            line.push_str(&format!(" parse {parse} bind {bind}"));
        }
        let rows = match tag.and_then(|tag| tag.rsplit(' ').next()).and_then(|rows| rows.parse().ok()) {
            Some(rows) if moved.bytes == 0 || tag.is_some_and(|tag| tag.starts_with("COPY")) => rows,
            _ => moved.rows,
        };
        let (index, bytes, batches) = (index.unwrap_or(0), moved.bytes, moved.batches);
        for (name, count) in
            [("index", index), ("rows", rows), ("bytes", bytes), ("copied", copied), ("batches", batches)]
        {
            if count > 0 {
                line.push_str(&format!(" {name} {count}"));
            }
        }
        if let Some(state) = outcome.strip_prefix("failed").and(Some("XX000")) {
            line.push_str(&format!(" state {state}"));
        }
        if let Some(tag) = tag {
            line.push_str(&format!(" [{tag}]"));
        }
        self.expected.push(line);
    }

    /// Fails the message, or everything.
    fn fail(&mut self) -> Result<(), Fatal> {
        if self.status == 'T' {
            self.status = 'E';
        }
        if self.desperate || self.dice.one_in(30) {
            self.say("!XX000");
            return Err(Fatal);
        }
        self.say("EXX000");
        Ok(())
    }

    /// Fails a message of a pipeline.
    fn fail_pipeline(&mut self, line: String) -> Result<(), Fatal> {
        self.expected.push(line);
        self.ignoring = true;
        self.fail()
    }

    fn ready(&mut self) {
        if self.status == 'I' {
            self.end_portals();
        }
        self.say(format!("Z{}", self.status));
    }

    fn message(&mut self, number: u64, message: Message) -> Result<(), Fatal> {
        let unlucky = self.dice.one_in(25);
        match message {
            Message::Sync => {
                if unlucky {
                    self.fail()?;
                }
                self.ready();
            }
            Message::Flush | Message::Data(_) | Message::CopyDone | Message::CopyFail => {}
            Message::Query(statements) => {
                self.statements.remove("");
                self.query(number, &statements)?;
                self.ready();
            }
            Message::Call => {
                let moved = Moved { number, ..Moved::default() };
                if unlucky || self.status == 'E' {
                    self.tell("failed", None, None, &moved, 0, None);
                    self.fail()?;
                } else {
                    self.say("V");
                    self.tell("done", None, None, &moved, 0, None);
                }
                self.ready();
            }
            Message::Parse(name, does) => {
                if name.is_empty() {
                    self.statements.remove("");
                }
                let aborted = self.status == 'E' && does != Does::Commit;
                if unlucky || aborted || self.statements.contains_key(name) {
                    return self.fail_pipeline(format!("{number} failed parse {number} state XX000"));
                }
                self.say("1");
                self.statements.insert(name, (number, does));
            }
            Message::Bind(portal, statement) => {
                let found = self.statements.get(statement).copied();
                let taken = !portal.is_empty() && self.portals.contains_key(portal);
                let aborted = self.status == 'E' && found.is_none_or(|(_, does)| does != Does::Commit);
                let Some((parse, does)) = found.filter(|_| !unlucky && !taken && !aborted) else {
                    let parse = found.map_or(String::new(), |(parse, _)| format!(" parse {parse}"));
                    return self.fail_pipeline(format!("{number} failed{parse} bind {number} state XX000"));
                };
                self.say("2");
                let left = if let Does::Rows(rows) = does { rows } else { 0 };
                let made = Portal { parse, bind: number, does, left, executed: false, suspended: None };
                let replaced = self.portals.insert(portal, made);
                self.drop_portal(replaced);
            }
            Message::DescribeStatement(name) => {
                if unlucky || !self.statements.contains_key(name) {
                    return self.fail_pipeline(format!("{number} failed state XX000"));
                }
                self.say("t");
                let rows = ["T", "n"][self.dice.roll(2)];
                self.say(rows);
            }
            Message::DescribePortal(name) => {
                if unlucky || !self.portals.contains_key(name) {
                    return self.fail_pipeline(format!("{number} failed state XX000"));
                }
                let rows = ["T", "n"][self.dice.roll(2)];
                self.say(rows);
            }
            Message::CloseStatement(name) => {
                self.statements.remove(name);
                self.say("3");
            }
            Message::ClosePortal(name) => {
                let portal = self.portals.remove(name);
                self.drop_portal(portal);
                self.say("3");
            }
            Message::Execute(name, max) => return self.execute(number, name, max),
        }
        Ok(())
    }

    fn query(&mut self, number: u64, statements: &[Does]) -> Result<(), Fatal> {
        // Between semicolons there may be nothing, which counts only where there is nothing else.
        let statements: Vec<_> = statements.iter().copied().filter(|does| *does != Does::Empty).collect();
        if statements.is_empty() {
            self.say("I");
            self.tell("empty", None, None, &Moved { number, ..Moved::default() }, 0, None);
        }
        for (index, does) in statements.into_iter().enumerate() {
            let mut moved = Moved { number, ..Moved::default() };
            let does = if self.status == 'E' && does != Does::Commit { Does::Fail } else { does };
            let fails = does == Does::Fail || self.dice.one_in(25);
            if fails && self.dice.one_in(2) {
                self.tell("failed", None, Some(index), &moved, 0, None);
                return self.fail();
            }
            let (mut left, all) = if let Does::Rows(rows) = does { (rows, usize::MAX) } else { (0, usize::MAX) };
            if matches!(does, Does::Rows(_)) {
                self.say("T");
            }
            if !fails || matches!(does, Does::Rows(_) | Does::CopyIn | Does::CopyOut(_)) {
                let unnamed = self.portals.remove("");
                self.drop_portal(unnamed);
            }
            let copied = self.moves(does, all, fails, &mut left, &mut moved);
            if fails || copied.is_none() {
                self.tell("failed", None, Some(index), &moved, 0, None);
                return self.fail();
            }
            let tag = self.tag(does, &moved);
            self.say(format!("C{}", tag.replace(' ', "_")));
            self.tell("done", None, Some(index), &moved, copied.unwrap_or_default(), Some(&tag));
        }
        Ok(())
    }

    fn execute(&mut self, number: u64, name: &'static str, max: usize) -> Result<(), Fatal> {
        let Some(mut portal) = self.portals.remove(name) else {
            return self.fail_pipeline(format!("{number} failed state XX000"));
        };
        let from = Some((portal.parse, portal.bind));
        let mut moved = portal.suspended.take().unwrap_or_else(|| Moved { number, ..Moved::default() });
        let again = portal.executed && !matches!(portal.does, Does::Rows(_));
        let aborted = self.status == 'E' && portal.does != Does::Commit;
        let fails = again || aborted || portal.does == Does::Fail || self.dice.one_in(25);
        portal.executed = true;
        if fails && (again || aborted || self.dice.one_in(2)) {
            self.tell("failed", from, None, &moved, 0, None);
            self.ignoring = true;
            return self.fail();
        }
        if portal.does == Does::Empty {
            self.say("I");
            self.tell("empty", from, None, &moved, 0, None);
            self.portals.insert(name, portal);
            return Ok(());
        }
        let before = moved.rows;
        let max = if max == 0 { usize::MAX } else { max };
        let copied = self.moves(portal.does, max, fails, &mut portal.left, &mut moved);
        if fails || copied.is_none() {
            self.tell("failed", from, None, &moved, 0, None);
            self.ignoring = true;
            return self.fail();
        }
        if matches!(portal.does, Does::Rows(_)) && moved.rows - before == max {
            self.say("s");
            moved.batches += 1;
            portal.suspended = Some(moved);
        } else {
            let step = Moved { rows: moved.rows - before, ..moved.clone() };
            let tag = self.tag(portal.does, &step);
            self.say(format!("C{}", tag.replace(' ', "_")));
            self.tell("done", from, None, &moved, copied.unwrap_or_default(), Some(&tag));
        }
        if portal.does == Does::Commit {
            self.end_portals();
        } else {
            self.portals.insert(name, portal);
        }
        Ok(())
    }

    /// Moves rows and data; returns what the client copied, or `None` where that failed.
    fn moves(&mut self, does: Does, max: usize, fails: bool, left: &mut usize, moved: &mut Moved) -> Option<usize> {
        let mut copied = 0;
        match does {
            Does::Rows(_) | Does::Fail => {
                let rows = if does == Does::Fail { self.dice.roll(3) } else { (*left).min(max) };
                *left = left.saturating_sub(rows);
                for _ in 0..rows {
                    let len = 1 + self.dice.roll(30);
                    self.say(format!("D{len}"));
                    moved.bytes += len;
                }
                moved.rows += rows;
            }
            Does::CopyOut(rows) => {
                self.say("H");
                for _ in 0..rows {
                    let len = 1 + self.dice.roll(30);
                    self.say(format!("d{len}"));
                    moved.bytes += len;
                }
                moved.rows += rows;
                if !fails {
                    self.say("c");
                }
            }
            Does::CopyIn => {
                self.say("G");
                // It gives up after so many messages.
                let mut patience = if fails { self.dice.roll(4) } else { usize::MAX };
                while patience > 0 {
                    patience -= 1;
                    match self.read() {
                        Some((_, Message::Data(len))) => copied += len,
                        Some((_, Message::Sync | Message::Flush)) => {}
                        Some((_, Message::CopyDone)) => break,
                        Some((_, Message::CopyFail)) | None => return None,
                        // Out of turn: nothing is read any more.
                        Some((number, _)) => {
                            (self.next, self.number, self.desperate) = (self.next - 1, number, true);
                            return None;
                        }
                    }
                }
            }
            Does::Change(_) | Does::Begin | Does::Commit | Does::Empty => {}
        }
        Some(copied)
    }

    fn tag(&mut self, does: Does, moved: &Moved) -> String {
        match does {
            Does::Rows(_) => format!("SELECT {}", moved.rows),
            Does::Change(rows) => format!("INSERT 0 {rows}"),
            Does::Begin => {
                self.status = 'T';
                "BEGIN".to_owned()
            }
            Does::Commit => {
                let failed = std::mem::replace(&mut self.status, 'I') == 'E';
                if !failed {
                    self.end_portals();
                }
                if failed { "ROLLBACK".to_owned() } else { "COMMIT".to_owned() }
            }
            Does::CopyIn => "COPY 3".to_owned(),
            _ => format!("COPY {}", moved.rows),
        }
    }
}

/// Strips what depends on what had arrived by then: how much of a failed COPY was seen, and where something comes from that was
/// not run.
fn comparable(line: &str) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    let outcome = words.get(1).copied().unwrap_or_default();
    let dropped: &[&str] = match outcome {
        "failed" => &["copied"],
        "skipped" | "unanswered" => &["parse", "bind", "rows", "bytes", "copied", "batches"],
        _ => &[],
    };
    let mut kept = Vec::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        if dropped.contains(&word) {
            words.next();
        } else {
            kept.push(word);
        }
    }
    kept.join(" ")
}

/// Lets a random client and a random server speak, and compares what is told; `cut` ends the connection somewhere in the middle.
fn run(seed: u64, results: Results, cut: bool) -> usize {
    let mut dice = Dice(seed);
    let messages = client(&mut dice);
    let mut server = Server {
        dice: &mut dice,
        messages: &messages,
        next: 0,
        number: 0,
        statements: HashMap::new(),
        portals: HashMap::new(),
        status: 'I',
        ignoring: false,
        desperate: false,
        said: Vec::new(),
        expected: Vec::new(),
    };
    server.run();
    let Server { said, expected, .. } = server;
    let mut expected: Vec<String> = expected.iter().map(|line| comparable(line)).collect();
    // Where each message ends, and where each answer does with the messages that were read by then.
    let (mut asked, mut ends) = (Vec::new(), vec![0]);
    for message in &messages {
        asked.extend_from_slice(&client_frame(&message.word()));
        ends.push(asked.len());
    }
    let mut answered = Vec::new();
    let mut answers = Vec::new();
    for (read, word) in &said {
        answered.extend_from_slice(&target_frame(word));
        answers.push((ends[*read], answered.len()));
    }
    if cut {
        answered.truncate(dice.roll(answered.len()));
        answers.iter_mut().for_each(|(_, end)| *end = answered.len().min(*end));
    }
    let mut talk = Talk::new(results);
    let (mut from, mut to) = (0, 0);
    while from < asked.len() || to < answered.len() {
        let due = answers.iter().take_while(|(needs, _)| *needs <= from).last().map_or(0, |(_, end)| *end);
        let len = 1 + dice.roll(1 + dice.0 as usize % 200);
        if to < due && (from == asked.len() || dice.one_in(2)) {
            let end = due.min(to + len);
            talk.bytes(Side::Target, &answered[to..end]);
            to = end;
        } else {
            let end = asked.len().min(from + len);
            talk.bytes(Side::Client, &asked[from..end]);
            from = end;
            if dice.one_in(2) {
                talk.flow.forwarded(dice.roll(messages.len()) as u64, Duration::from_micros(1));
            }
        }
    }
    let fatal = said.iter().any(|(_, word)| word.starts_with('!'));
    let describe = || {
        let words: Vec<_> = messages.iter().map(Message::word).collect();
        let said: Vec<_> = said.iter().map(|(read, word)| format!("{read}:{word}")).collect();
        format!("seed {seed}: {} -> {}\n{messages:?}", words.join(" "), said.join(" "))
    };
    assert!(cut || fatal || !talk.flow.is_running(), "{}", describe());
    talk.flow.finish(Duration::ZERO, &mut talk.events);
    let lost = talk.events.iter().find(|event| event.kind == pg_lost::TYPE);
    assert!(lost.is_none(), "{:?} {}", lost.map(line), describe());
    let done = talk.events.iter().filter(|event| event.kind == pg_done::TYPE);
    let mut told: Vec<String> = done.map(|event| comparable(&line(event))).collect();
    told.sort();
    expected.sort();
    if cut {
        // What was told before is the same; only what had no answer may be told otherwise.
        told.retain(|line| !line.contains("unanswered") && !line.contains("suspended"));
        expected.retain(|line| told.contains(line));
    }
    assert_eq!(told, expected, "{}", describe());
    let left_out = talk.verdicts.iter().filter(|(_, verdict)| *verdict == Verdict::Elide);
    assert!(left_out.count() == 0 || results != Results::Full);
    told.len()
}

#[test]
fn every_completion_is_told_of_its_message_in_random_pipelines() {
    let results = [Results::Full, Results::Hash, Results::Count, Results::Rows(1)];
    let told: usize = (0..20_000).map(|seed| run(seed, results[seed as usize % 4], false)).sum();
    assert!(told > 50_000, "{told} statements are no test");
}

#[test]
fn what_was_told_before_a_connection_broke_is_the_same() {
    let told: usize = (20_000..30_000).map(|seed| run(seed, Results::Full, true)).sum();
    assert!(told > 10_000, "{told} statements are no test");
}
