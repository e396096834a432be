//! Which answer belongs to which statement, rule by rule: both sides speak in a shorthand of one word a message.

use bytes::{BufMut, BytesMut};
use casemate_recorder::transcript::event::{
    Value, pg_described, pg_done, pg_fatal, pg_lost, pg_notice, pg_notify, pg_parameter, pg_transaction,
};

use super::*;
use crate::pg::codec::{Splitter, put_frame, put_text};

/// Returns the frame that a word of the client stands for: its tag, then names (`Bportal=statement`), or the bytes of `d`.
pub(super) fn client_frame(word: &str) -> BytesMut {
    let (tag, rest) = word.split_at(1);
    let mut out = BytesMut::new();
    put_frame(&mut out, tag.as_bytes()[0], |out| match tag {
        "Q" => put_text(out, b"select"),
        "P" => {
            put_text(out, rest.as_bytes());
            put_text(out, b"select");
            out.put_u16(0);
        }
        "B" => {
            let (portal, statement) = rest.split_once('=').unwrap_or((rest, ""));
            put_text(out, portal.as_bytes());
            put_text(out, statement.as_bytes());
            out.put_bytes(0, 6);
        }
        "E" => {
            put_text(out, rest.as_bytes());
            out.put_u32(0);
        }
        "C" | "D" => put_text(out, rest.as_bytes()),
        "F" => out.put_bytes(0, 10),
        "d" => out.put_bytes(b'x', rest.parse().unwrap()),
        "f" => put_text(out, b"no"),
        _ => assert!(matches!(word, "S" | "H" | "X" | "c"), "{word}"),
    });
    out
}

/// Returns the frame that a word of the target stands for: its tag, then the bytes of a row, a tag with `_` for spaces, a status,
/// a SQLSTATE; `!` is an ErrorResponse that is fatal.
pub(super) fn target_frame(word: &str) -> BytesMut {
    let (tag, rest) = word.split_at(1);
    let mut out = BytesMut::new();
    let byte = if tag == "!" { b'E' } else { tag.as_bytes()[0] };
    put_frame(&mut out, byte, |out| match tag {
        "D" | "d" => out.put_bytes(b'x', rest.parse().unwrap()),
        "C" => put_text(out, rest.replace('_', " ").as_bytes()),
        "Z" => out.put_slice(rest.as_bytes()),
        "E" | "!" | "N" => {
            let severity =
                [("E", "ERROR"), ("!", "FATAL"), ("N", "NOTICE")].iter().find(|(of, _)| *of == tag).unwrap().1;
            for (code, text) in [(b'S', "FEHLER"), (b'V', severity), (b'C', rest), (b'M', "why")] {
                out.put_u8(code);
                put_text(out, text.as_bytes());
            }
            out.put_u8(0);
        }
        "A" => {
            out.put_u32(7);
            put_text(out, b"jobs");
            put_text(out, b"one");
        }
        "S" => {
            put_text(out, b"TimeZone");
            put_text(out, b"UTC");
        }
        "t" if !rest.is_empty() => {
            out.put_u16(1);
            out.put_u32(rest.parse().unwrap());
        }
        _ => assert!(
            matches!(word, "1" | "2" | "3" | "t" | "T" | "n" | "I" | "s" | "V" | "G" | "H" | "W" | "c"),
            "{word}"
        ),
    });
    out
}

/// Puts an event into one line.
pub(super) fn line(event: &Event) -> String {
    let text = |field| match event.get(field) {
        Some(Value::Bytes(bytes)) => String::from_utf8(bytes.to_vec()).unwrap(),
        Some(Value::Text(text)) => text.clone(),
        Some(Value::Uint(number)) => number.to_string(),
        Some(Value::List(values)) => values.iter().map(|value| format!("{value:?}")).collect(),
        _ => "-".to_owned(),
    };
    let all = |fields: &[_]| fields.iter().map(|field| text(*field)).collect::<Vec<_>>().join(" ");
    match event.kind {
        pg_done::TYPE => {
            let mut line = all(&[pg_done::FRAME, pg_done::OUTCOME]);
            let rest = [
                ("parse", pg_done::PARSE),
                ("bind", pg_done::BIND),
                ("index", pg_done::INDEX),
                ("rows", pg_done::ROWS),
                ("bytes", pg_done::BYTES),
                ("copied", pg_done::COPIED),
                ("batches", pg_done::BATCHES),
                ("state", pg_done::SQLSTATE),
            ];
            for (name, field) in rest {
                // The first message is a number too.
                match event.get(field) {
                    None => {}
                    Some(Value::Uint(0)) if !matches!(name, "parse" | "bind") => {}
                    Some(_) => line.push_str(&format!(" {name} {}", text(field))),
                }
            }
            line + &event.get(pg_done::TAG).map_or(String::new(), |_| format!(" [{}]", text(pg_done::TAG)))
        }
        pg_notice::TYPE => format!("notice {}", all(&[pg_notice::SEVERITY, pg_notice::FRAME])),
        pg_notify::TYPE => format!("notify {}", all(&[pg_notify::PID, pg_notify::CHANNEL, pg_notify::PAYLOAD])),
        pg_parameter::TYPE => format!("parameter {}", all(&[pg_parameter::NAME, pg_parameter::VALUE])),
        pg_transaction::TYPE => format!("transaction {}", text(pg_transaction::STATUS)),
        pg_described::TYPE => format!("described {}", all(&[pg_described::PARSE, pg_described::PARAMETERS])),
        pg_fatal::TYPE => format!("fatal {}", all(&[pg_fatal::SEVERITY, pg_fatal::SQLSTATE, pg_fatal::FRAME])),
        pg_lost::TYPE => format!("lost {}", all(&[pg_lost::WHY, pg_lost::SIDE, pg_lost::FRAME])),
        kind => panic!("{kind}"),
    }
}

/// A flow with both its splitters.
pub(super) struct Talk {
    pub(super) flow: Flow,
    splitters: [Splitter; 2],
    held: [Vec<u8>; 2],
    pub(super) events: Vec<Event>,
    pub(super) verdicts: Vec<(u8, Verdict)>,
    now: Duration,
}

impl Talk {
    pub(super) fn new(results: Results) -> Self {
        let splitters = [Splitter::new(Side::Client), Splitter::new(Side::Target)];
        let (held, now) = (Default::default(), Duration::ZERO);
        Self { flow: Flow::new(results), splitters, held, events: Vec::new(), verdicts: Vec::new(), now }
    }

    /// Passes bytes of a side.
    pub(super) fn bytes(&mut self, side: Side, bytes: &[u8]) {
        let (splitter, held) = (&mut self.splitters[side as usize], &mut self.held[side as usize]);
        held.extend_from_slice(bytes);
        let mut at = 0;
        while let Some(piece) = splitter.next(&held[at..]).unwrap() {
            let payload = piece.payload(&held[at..]);
            let verdict = match side {
                Side::Client => self.flow.client(&piece, payload, self.now, &mut self.events),
                Side::Target => self.flow.target(&piece, payload, self.now, &mut self.events),
            };
            self.verdicts.push((piece.tag, verdict));
            at += piece.len;
            if side == Side::Target && piece.ends() && self.flow.counts_rows(piece.tag) {
                let run = splitter.run(piece.tag, &held[at..]);
                self.flow.rows(&run);
                self.verdicts.extend((0..run.frames).map(|_| (run.tag, verdict)));
                at += run.len;
            }
        }
        held.drain(..at);
    }

    fn client(&mut self, words: &str) -> &mut Self {
        words.split_whitespace().for_each(|word| self.bytes(Side::Client, &client_frame(word)));
        self
    }

    /// Passes what the target says, and returns what is told of it.
    fn target(&mut self, words: &str) -> Vec<String> {
        words.split_whitespace().for_each(|word| self.bytes(Side::Target, &target_frame(word)));
        self.told()
    }

    pub(super) fn told(&mut self) -> Vec<String> {
        self.events.drain(..).map(|event| line(&event)).collect()
    }

    fn finish(&mut self) -> Vec<String> {
        self.flow.finish(self.now, &mut self.events);
        self.told()
    }
}

/// What is told when the client says all it says before the target answers.
fn told(client: &str, target: &str) -> Vec<String> {
    Talk::new(Results::Full).client(client).target(target)
}

const NONE: [&str; 0] = [];

#[test]
fn each_statement_of_a_query_is_told_and_an_error_ends_the_rest() {
    assert_eq!(
        told("Q Q", "CBEGIN T D3 D4 CSELECT_2 CINSERT_0_5 E22012 ZE I ZE"),
        [
            "0 done [BEGIN]",
            "0 done index 1 rows 2 bytes 7 [SELECT 2]",
            "0 done index 2 rows 5 [INSERT 0 5]",
            "0 failed index 3 state 22012",
            "transaction E",
            "1 empty",
        ]
    );
}

#[test]
fn an_execute_goes_back_to_the_bind_and_parse_that_the_target_confirmed() {
    assert_eq!(
        told("Ps B=s DP E S Bp=s Ep S", "1 2 T D1 CSELECT_1 ZI 2 CINSERT_0_1 ZI"),
        ["3 done parse 0 bind 1 rows 1 bytes 1 [SELECT 1]", "6 done parse 0 bind 5 rows 1 [INSERT 0 1]"]
    );
}

#[test]
fn a_failed_parse_leaves_the_name_as_it_was() {
    assert_eq!(
        told("Ps S Ps S B=s E S", "1 ZI E42P05 ZI 2 CSELECT_0 ZI"),
        ["2 failed parse 2 state 42P05", "5 done parse 0 bind 4 [SELECT 0]"]
    );
}

#[test]
fn the_unnamed_statement_is_gone_with_the_next_parse_even_one_that_fails_and_with_a_query() {
    assert_eq!(
        told("P S P S B S", "1 ZI E42601 ZI E26000 ZI"),
        ["2 failed parse 2 state 42601", "4 failed bind 4 state 26000"]
    );
    assert_eq!(told("P S Q B S", "1 ZI CSELECT_0 ZI E26000 ZI"), ["2 done [SELECT 0]", "3 failed bind 3 state 26000"]);
}

#[test]
fn a_portal_keeps_the_statement_that_it_was_bound_to() {
    // Closed, and prepared anew under the same name, before the portal is executed.
    assert_eq!(told("Ps Bp=s CSs Ps Ep S", "1 2 3 1 CSELECT_0 ZI"), ["4 done parse 0 bind 1 [SELECT 0]"]);
}

#[test]
fn portals_end_with_their_transaction() {
    let mut talk = Talk::new(Results::Full);
    assert_eq!(talk.client("Q P Bp Ep S").target("CBEGIN ZT 1 2 D1 s ZT"), ["0 done [BEGIN]", "transaction T"]);
    // Still there: it goes on.
    assert_eq!(talk.client("Ep S").target("D1 s ZT"), NONE);
    assert_eq!(
        talk.client("Q").target("CROLLBACK ZI"),
        ["7 done [ROLLBACK]", "transaction I", "3 suspended parse 1 bind 2 rows 2 bytes 2 batches 2"]
    );
    // Out of a transaction it ends with Sync; inside, a COMMIT in the same pipeline ends it.
    assert_eq!(talk.client("Bp Ep S").target("2 D1 s ZI"), ["9 suspended bind 8 rows 1 bytes 1 batches 1"]);
    let told = talk.client("P B E S P Bp Ep P B E Ep S").target("1 2 CBEGIN ZT 1 2 D1 s 1 2 CCOMMIT E34000 ZI");
    assert_eq!(
        told,
        [
            "13 done parse 11 bind 12 [BEGIN]",
            "transaction T",
            "20 done parse 18 bind 19 [COMMIT]",
            "17 suspended parse 15 bind 16 rows 1 bytes 1 batches 1",
            "21 failed state 34000",
            "transaction I",
        ]
    );
}

#[test]
fn a_portal_that_is_fetched_in_batches_is_one_statement() {
    let mut talk = Talk::new(Results::Full);
    talk.client("Q P B E E E").target("CBEGIN ZT 1 2");
    talk.flow.forwarded(6, Duration::from_micros(1_000));
    talk.now = Duration::from_micros(1_500);
    talk.target("D5 D5 s");
    talk.now = Duration::from_micros(1_700);
    talk.target("D5 s");
    talk.now = Duration::from_micros(1_900);
    talk.bytes(Side::Target, &target_frame("CSELECT_0"));
    let [event] = talk.events.as_slice() else { panic!("{:?}", talk.events) };
    assert_eq!(line(event), "3 done parse 1 bind 2 rows 3 bytes 15 batches 2 [SELECT 0]");
    assert_eq!(event.get(pg_done::US), Some(&Value::Uint(500 + 700 + 900)));
}

#[test]
fn a_suspended_portal_that_is_closed_or_replaced_is_told() {
    assert_eq!(
        told("P B E CP B E B S", "1 2 D1 s 3 2 D1 s 2 ZI"),
        ["2 suspended parse 0 bind 1 rows 1 bytes 1 batches 1", "5 suspended parse 0 bind 4 rows 1 bytes 1 batches 1",]
    );
}

#[test]
fn an_error_skips_everything_up_to_the_next_sync() {
    assert_eq!(
        told("P B E P B E Q F S Q", "1 E22P02 ZI CSELECT_0 ZI"),
        [
            "1 failed parse 0 bind 1 state 22P02",
            "2 skipped parse 0 bind 1",
            "5 skipped parse 3 bind 4",
            "6 skipped",
            "7 skipped",
            "9 done [SELECT 0]",
        ]
    );
    // What comes later than the error is skipped too, until a Sync is sent.
    let mut talk = Talk::new(Results::Full);
    assert_eq!(talk.client("P").target("E42601"), ["0 failed parse 0 state 42601"]);
    assert!(!talk.flow.is_running(), "it waits for the client");
    talk.client("B E Q H d5 c");
    assert_eq!(talk.told(), ["2 skipped parse 0 bind 1", "3 skipped"]);
    assert_eq!(talk.client("S Q").target("ZI CSELECT_0 ZI"), ["7 done [SELECT 0]"]);
}

#[test]
fn pipelined_syncs_are_answered_each() {
    assert_eq!(
        told("S P S B E S S P B E S", "ZI 1 ZI 2 CSELECT_0 ZI ZI E42601 ZI"),
        ["4 done parse 1 bind 3 [SELECT 0]", "7 failed parse 7 state 42601", "9 skipped parse 7 bind 8"]
    );
}

#[test]
fn a_failed_query_or_function_call_skips_nothing() {
    assert_eq!(
        told("Q Q F F Q", "E42601 ZI CSELECT_0 ZI E42883 ZI V ZI I ZI"),
        ["0 failed state 42601", "1 done [SELECT 0]", "2 failed state 42883", "3 done", "4 empty"]
    );
}

#[test]
fn an_error_at_sync_belongs_to_no_statement_and_skips_nothing() {
    assert_eq!(
        told("P B E S Q", "1 2 CINSERT_0_1 E23503 ZI CSELECT_0 ZI"),
        ["2 done parse 0 bind 1 rows 1 [INSERT 0 1]", "fatal ERROR 23503 3", "4 done [SELECT 0]"]
    );
}

#[test]
fn a_copy_from_the_client_takes_its_data_in_both_protocols() {
    assert_eq!(told("Q d5 d7 c Q", "G CCOPY_2 ZI I ZI"), ["0 done rows 2 copied 12 [COPY 2]", "2 empty"]);
    // The client learns late that it is in a COPY: Sync and Flush before CopyDone are ignored.
    assert_eq!(
        told("P B E H S d5 H S d7 c S Q", "1 2 G CCOPY_2 ZI I ZI"),
        ["2 done parse 0 bind 1 rows 2 copied 12 [COPY 2]", "9 empty"]
    );
    let mut talk = Talk::new(Results::Full);
    assert_eq!(talk.client("P B E S").target("1 2 G"), NONE);
    assert!(talk.flow.is_running());
    talk.client("d3 S d4 c S");
    assert_eq!(talk.target("CCOPY_1 ZI"), ["2 done parse 0 bind 1 rows 1 copied 7 [COPY 1]"]);
    assert!(!talk.flow.is_running());
}

#[test]
fn two_copies_of_one_query_take_their_own_data() {
    assert_eq!(
        told("Q d5 c d6 d1 c", "G CCOPY_1 G CCOPY_2 ZI"),
        ["0 done rows 1 copied 5 [COPY 1]", "0 done index 1 rows 2 copied 7 [COPY 2]"]
    );
}

#[test]
fn after_a_failed_copy_late_data_is_ignored() {
    assert_eq!(told("Q d5 d5 c Q", "G E22P04 ZI I ZI"), ["0 failed copied 10 state 22P04", "2 empty"]);
    let mut talk = Talk::new(Results::Full);
    assert_eq!(talk.client("Q d5").target("G E22P04 ZI"), ["0 failed copied 5 state 22P04"]);
    talk.client("d5 d5 c");
    assert!(!talk.flow.is_running());
    assert_eq!(talk.client("Q").target("I ZI"), ["2 empty"]);
    // The client gave up.
    assert_eq!(told("Q d5 f", "G E57014 ZI"), ["0 failed copied 5 state 57014"]);
    // It failed before it began.
    assert_eq!(told("Q d5 c Q", "E42501 ZI I ZI"), ["0 failed state 42501", "2 empty"]);
}

#[test]
fn after_a_failed_copy_in_a_pipeline_a_sync_behind_it_is_needed() {
    let failed = "2 failed parse 0 bind 1 copied 5 state 22P04";
    assert_eq!(told("P B E d5 c S Q", "1 2 G E22P04 ZI I ZI"), [failed, "5 empty"]);
    // The early Sync was read by the COPY.
    assert_eq!(told("P B E S d5 c S Q", "1 2 G E22P04 ZI I ZI"), [failed, "6 empty"]);
    // It failed before it read the Sync: both are answered.
    assert_eq!(told("P B E S d5 c S Q", "1 2 G E22P04 ZI ZI I ZI"), [failed, "6 empty"]);
    assert_eq!(
        told("P B E S P B E S", "1 2 G E22P04 ZI 1 2 CSELECT_0 ZI"),
        ["2 failed parse 0 bind 1 state 22P04", "6 done parse 4 bind 5 [SELECT 0]"]
    );
    // It never began: the early Sync ends it, and the data is late.
    assert_eq!(told("P B E S d5 c S Q", "1 2 E42501 ZI ZI I ZI"), ["2 failed parse 0 bind 1 state 42501", "6 empty"]);
}

#[test]
fn a_copy_to_the_client_is_counted() {
    assert_eq!(told("Q", "H d5 d6 c CCOPY_2 ZI"), ["0 done rows 2 bytes 11 [COPY 2]"]);
    assert_eq!(told("P B E S", "1 2 H d5 E57014 ZI"), ["2 failed parse 0 bind 1 rows 1 bytes 5 state 57014"]);
}

#[test]
fn a_copy_both_ways_ends_with_its_commands() {
    let mut talk = Talk::new(Results::Full);
    assert_eq!(talk.client("Q").target("W d5 d5"), NONE);
    assert_eq!(talk.client("d3 d3").target("d5"), NONE);
    assert_eq!(
        talk.client("c").target("c T D2 CSTREAMING CSTART_REPLICATION ZI"),
        ["0 done rows 4 bytes 17 copied 6 [STREAMING]", "0 done index 1 [START REPLICATION]"]
    );
}

#[test]
fn what_comes_unasked_moves_nothing() {
    assert_eq!(
        told("P B E S Q", "N01000 A S 1 A 2 S D1 N01000 CSELECT_1 A ZI N01000 I S ZI A"),
        [
            "notice NOTICE 0",
            "notify 7 jobs one",
            "parameter TimeZone UTC",
            "notify 7 jobs one",
            "parameter TimeZone UTC",
            "notice NOTICE 2",
            "2 done parse 0 bind 1 rows 1 bytes 1 [SELECT 1]",
            "notify 7 jobs one",
            "notice NOTICE 4",
            "4 empty",
            "parameter TimeZone UTC",
            "notify 7 jobs one",
        ]
    );
}

#[test]
fn a_fatal_error_without_a_question_is_no_statements() {
    assert_eq!(told("Q", "CSELECT_0 ZI !57P01"), ["0 done [SELECT 0]", "fatal FATAL 57P01 -"]);
    // With one it is the statement's, and what is behind it has no answer.
    let mut talk = Talk::new(Results::Full);
    assert_eq!(
        talk.client("P B E Q S").target("1 2 D1 !57P01"),
        ["2 failed parse 0 bind 1 rows 1 bytes 1 state 57P01"]
    );
    assert_eq!(talk.finish(), ["3 unanswered"]);
}

#[test]
fn a_statement_is_described_by_its_parameters_and_its_rows() {
    assert_eq!(
        told("Ps DSs DSs Bp=s DPp DPp Ep S", "1 t T t23 n 2 T n CSELECT_0 ZI"),
        ["described 0 ", "described 0 Uint(23)", "6 done parse 0 bind 3 [SELECT 0]"]
    );
    assert_eq!(told("DSs S", "T"), ["lost an answer that fits no question 1 0"]);
}

#[test]
fn drivers_that_flush_are_answered_before_any_sync() {
    let mut talk = Talk::new(Results::Full);
    assert_eq!(talk.client("P DS H").target("1 t T"), ["described 0 "]);
    assert_eq!(talk.client("B E H").target("2 D1 CSELECT_1"), ["4 done parse 0 bind 3 rows 1 bytes 1 [SELECT 1]"]);
    assert_eq!(talk.client("S").target("ZI"), NONE);
}

#[test]
fn an_answer_without_a_question_loses_the_thread_and_bytes_stay() {
    for (client, target) in [
        ("", "CSELECT_1"),
        ("Q", "1"),
        ("P", "2"),
        ("S", "D1"),
        ("", "ZI"),
        ("Q", "ZI"),
        ("Q", "d1"),
        ("E", "V"),
        ("Q", "CX ZI D1"),
    ] {
        let mut talk = Talk::new(Results::Count);
        let told = talk.client(client).target(target);
        assert!(told.iter().any(|line| line.starts_with("lost")), "{client}: {target}: {told:?}");
        talk.verdicts.clear();
        assert_eq!(talk.client("Q d1 P B E S").target("T D1 CSELECT_1 d5 E42601 1 2 3"), NONE);
        assert!(talk.verdicts.iter().all(|(_, verdict)| *verdict == Verdict::Keep));
        assert!(talk.flow.is_running(), "nobody knows");
        // What does not hang on the thread is told on.
        assert_eq!(talk.target("ZT N01000"), ["transaction T", "notice NOTICE -"]);
        assert_eq!(talk.finish(), NONE);
    }
}

#[test]
fn what_has_no_answer_at_the_end_is_told_so() {
    let mut talk = Talk::new(Results::Full);
    assert_eq!(talk.client("P B E Q F P Bp=x E E S").target("1 2 D1"), NONE);
    assert_eq!(
        talk.finish(),
        [
            "2 unanswered parse 0 bind 1 rows 1 bytes 1",
            "3 unanswered",
            "4 unanswered",
            "7 unanswered parse 0 bind 1",
            "8 unanswered parse 0 bind 1",
        ]
    );
    // Between the last statement of a Query and its end nothing is open.
    let mut talk = Talk::new(Results::Full);
    assert_eq!(talk.client("Q").target("CBEGIN"), ["0 done [BEGIN]"]);
    assert_eq!(talk.finish(), NONE);
}

#[test]
fn sql_that_drops_names_leaves_no_wrong_one() {
    assert_eq!(
        told("Ps Q B=s E S", "1 CDISCARD_ALL ZI 2 CSELECT_0 ZI"),
        ["1 done [DISCARD ALL]", "3 done bind 2 [SELECT 0]"]
    );
    assert_eq!(
        told("Ps Q Q B=s E S", "1 CDEALLOCATE ZI CPREPARE ZI 2 CSELECT_0 ZI"),
        ["1 done [DEALLOCATE]", "2 done [PREPARE]", "4 done bind 3 [SELECT 0]"]
    );
    assert_eq!(
        told("Ps Q B=s E S", "1 CPREPARE ZI 2 CSELECT_0 ZI"),
        ["1 done [PREPARE]", "3 done parse 0 bind 2 [SELECT 0]"]
    );
}

#[test]
fn only_rows_and_copied_data_are_left_out() {
    let left_out = |results| {
        let mut talk = Talk::new(results);
        talk.client("Q Q d1 d2 d3 c P B E S F Q");
        talk.target("T D1 D2 D3 CSELECT_3 ZI G CCOPY_3 ZI 1 2 D1 CSELECT_1 ZI V ZI H d1 d1 d1 c CCOPY_3 ZI");
        assert!(!talk.flow.lost);
        let left_out = talk.verdicts.iter().filter(|(_, verdict)| *verdict == Verdict::Elide);
        left_out.map(|(tag, _)| char::from(*tag)).collect::<String>()
    };
    assert_eq!(left_out(Results::Full), "");
    assert_eq!(left_out(Results::Count), "dddDDDDddd");
    assert_eq!(left_out(Results::Hash), "dddDDDDddd");
    assert_eq!(left_out(Results::Rows(2)), "dDd");
    assert_eq!(left_out(Results::Rows(0)), "dddDDDDddd");
}

#[test]
fn rows_that_come_together_are_told_and_kept_as_those_that_come_one_by_one() {
    const CLIENT: &str = "Q P B Ep S Ep S Q";
    const TARGET: &str =
        "T D1 D0 D3 CSELECT_3 D2 CSELECT_1 ZI 1 2 D1 D2 s ZT D4 D5 CSELECT_2 ZI H d1 d9 d1 d0 c CCOPY_4 ZI";
    let wire: Vec<u8> = TARGET.split_whitespace().flat_map(target_frame).collect();
    for results in [Results::Full, Results::Hash, Results::Count, Results::Rows(0), Results::Rows(1), Results::Rows(3)]
    {
        let mut single = Talk::new(results);
        let told = single.client(CLIENT).target(TARGET);
        assert!(told.len() > 4 && !single.flow.lost, "{told:?}");
        for cut in 1..=wire.len() {
            let mut talk = Talk::new(results);
            talk.client(CLIENT);
            wire.chunks(cut).for_each(|chunk| talk.bytes(Side::Target, chunk));
            assert_eq!(talk.told(), told, "{results:?} {cut}");
            let verdicts = |talk: &Talk| talk.verdicts.iter().filter(|(_, verdict)| *verdict == Verdict::Elide).count();
            assert!(cut < wire.len() || verdicts(&talk) == verdicts(&single), "{results:?}");
        }
    }
}

#[test]
fn a_frame_is_left_out_whole_or_kept_whole() {
    // The thread is lost in the middle of a client's frame.
    let mut talk = Talk::new(Results::Count);
    talk.client("Q").target("G");
    let frame = client_frame("d10");
    talk.bytes(Side::Client, &frame[..8]);
    assert_eq!(talk.target("1").len(), 1);
    talk.bytes(Side::Client, &frame[8..]);
    talk.client("d10");
    let verdicts: Vec<_> = talk.verdicts.iter().filter(|(tag, _)| *tag == b'd').map(|(_, verdict)| *verdict).collect();
    assert_eq!(verdicts, [Verdict::Elide, Verdict::Elide, Verdict::Keep]);
}

#[test]
fn digests_cover_what_each_statement_moved() {
    let digests = |results, client: &str, target: &str| {
        let mut talk = Talk::new(results);
        talk.client(client);
        target.split_whitespace().for_each(|word| talk.bytes(Side::Target, &target_frame(word)));
        assert!(!talk.flow.lost);
        let digest = |event: &Event| match event.get(pg_done::BLAKE3) {
            Some(Value::Bytes(bytes)) => Some(bytes.to_vec()),
            _ => None,
        };
        talk.events.iter().filter(|event| event.kind == pg_done::TYPE).map(digest).collect::<Vec<_>>()
    };
    let of = |len: usize| Some(blake3::hash(&vec![b'x'; len]).as_bytes().to_vec());
    let select = "T D3 D4 CSELECT_2 T D5 CSELECT_1 CSELECT_0 ZI";
    assert_eq!(digests(Results::Hash, "Q", select), [of(7), of(5), None]);
    assert_eq!(digests(Results::Full, "Q", select), [None, None, None]);
    assert_eq!(digests(Results::Hash, "Q d3 d4 c d5 c Q", "G CCOPY_2 G CCOPY_1 ZI CX ZI"), [of(7), of(5), None]);
    assert_eq!(digests(Results::Hash, "Q d3 d4", "G E22P04 ZI"), [of(7)]);
    assert_eq!(digests(Results::Hash, "P B E E E", "1 2 D3 s D4 s CSELECT_0"), [of(7)]);
    assert_eq!(digests(Results::Hash, "Q", "H d3 d4 c CCOPY_2 ZI"), [of(7)]);
}

#[test]
fn what_is_asked_without_end_loses_the_thread_and_gives_its_memory_back() {
    let mut talk = Talk::new(Results::Full);
    let syncs = client_frame("S").repeat(1 << 12);
    (0..257).for_each(|_| talk.bytes(Side::Client, &syncs));
    assert_eq!(talk.told(), ["lost more messages without an answer than can be kept 0 1048576"]);
    assert!(talk.flow.queue.next_answered().is_none());
}
