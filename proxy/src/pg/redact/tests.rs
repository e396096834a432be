//! The corpora: statements, and errors about them, with what is secret in them.

use super::*;

/// A line of a corpus: its bytes, and what is to become of each.
struct Entry {
    line: usize,
    /// `!`, `?` or nothing.
    sensitive: Option<bool>,
    stated: bool,
    text: Vec<u8>,
    fates: Vec<Fate>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Kept,
    Secret,
    Either,
}

fn corpus(file: &str) -> Vec<Entry> {
    let lines = file.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let entries = lines.map(|(line, marked)| {
        let stated = match marked.as_bytes()[0] {
            b'!' => Some(Some(true)),
            b'?' => Some(None),
            _ => None,
        };
        let marked = if stated.is_some() { &marked[1..] } else { marked };
        let (mut text, mut fates, mut fate) = (Vec::new(), Vec::new(), Fate::Kept);
        for letter in marked.chars() {
            match letter {
                '«' => fate = Fate::Secret,
                '‹' => fate = Fate::Either,
                '»' | '›' => fate = Fate::Kept,
                letter => {
                    let letter = match letter {
                        '⏎' => '\n',
                        '␀' => '\0',
                        letter => letter,
                    };
                    text.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
                    fates.resize(text.len(), fate);
                }
            }
        }
        let sensitive = stated.unwrap_or_else(|| Some(marked.contains('«')));
        Entry { line: line + 1, sensitive, stated: stated.is_some(), text, fates }
    });
    entries.collect()
}

/// Puts stars over what is secret in `pieces`, one after the other.
fn stars<'t>(pieces: impl Iterator<Item = &'t [u8]>, mut feed: impl FnMut(&[u8], &mut Vec<Range<usize>>)) -> Vec<u8> {
    let mut out = Vec::new();
    for piece in pieces {
        let (mut secret, mut end, at) = (Vec::new(), 0, out.len());
        feed(piece, &mut secret);
        out.extend_from_slice(piece);
        for range in secret {
            assert!(
                end <= range.start && range.start < range.end && range.end <= piece.len(),
                "{range:?} behind {end}"
            );
            end = range.end;
            out[at..][range].fill(b'*');
        }
    }
    out
}

fn redact<'t>(pieces: impl Iterator<Item = &'t [u8]>) -> (Vec<u8>, bool) {
    let mut redactor = Redactor::new();
    let out = stars(pieces, |piece, secret| redactor.feed(piece, secret));
    (out, redactor.is_sensitive())
}

/// Returns what is wrong with the stars over an entry.
fn fault(entry: &Entry, out: &[u8]) -> Option<String> {
    let wrong = |(at, fate): (usize, &Fate)| match fate {
        Fate::Kept => out[at] != entry.text[at],
        Fate::Secret => out[at] != b'*',
        Fate::Either => false,
    };
    let wrong = entry.fates.iter().enumerate().any(wrong);
    wrong.then(|| format!("line {}: {}\n{:>9}{}", entry.line, entry.text.escape_ascii(), "", out.escape_ascii()))
}

#[test]
fn secrets_of_the_corpus_are_found_and_nothing_else() {
    let entries = corpus(include_str!("corpus.txt"));
    assert!(entries.len() >= 300, "{} statements", entries.len());
    let mut faults = Vec::new();
    for entry in &entries {
        let (out, sensitive) = redact([entry.text.as_slice()].into_iter());
        faults.extend(fault(entry, &out));
        if entry.sensitive.is_some_and(|expected| expected != sensitive) {
            faults.push(format!("line {}: sensitive = {sensitive}: {}", entry.line, entry.text.escape_ascii()));
        }
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn any_cut_of_a_statement_leaves_the_same_secrets() {
    for entry in corpus(include_str!("corpus.txt")) {
        let text = entry.text.as_slice();
        let whole = redact([text].into_iter());
        assert_eq!(redact(text.chunks(1)), whole, "line {}, byte by byte", entry.line);
        for cut in 0..=text.len() {
            let (front, back) = text.split_at(cut);
            assert_eq!(redact([front, back].into_iter()), whole, "line {}, cut at {cut}", entry.line);
        }
    }
}

#[test]
fn what_one_string_prepares_another_may_give_secrets_to() {
    for (prepare, prepared) in [
        ("PREPARE p(text) AS SELECT set_config('app.token', $1, false)", true),
        ("SELECT 1; PREPARE p AS SELECT crypt($1, 'x'); SELECT 2", true),
        ("PREPARE p AS SELECT $1", false),
        ("SELECT crypt($1, 'x')", false),
    ] {
        let mut first = Redactor::new();
        first.feed(prepare.as_bytes(), &mut Vec::new());
        assert_eq!(first.prepares(), prepared, "{prepare}");
        let mut second = Redactor::behind(first.prepares());
        let out = stars([&b"SELECT 'kept'; EXECUTE p('hunter2')"[..]].into_iter(), |piece, secret| {
            second.feed(piece, secret);
        });
        let expected =
            if prepared { "SELECT 'kept'; EXECUTE p('*******')" } else { "SELECT 'kept'; EXECUTE p('hunter2')" };
        assert_eq!(out, expected.as_bytes(), "{prepare}");
        assert_eq!((second.is_sensitive(), second.prepares()), (prepared, prepared));
    }
    let mut trigger = Redactor::behind(true);
    let text = b"CREATE TRIGGER x BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION f('kept')";
    assert_eq!(stars([&text[..]].into_iter(), |piece, secret| trigger.feed(piece, secret)), text);
    assert!(!trigger.is_sensitive());
}

/// A generator of pseudorandom numbers: xorshift64.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

/// What statements of all sorts are made of, in any order.
const PIECES: [&[u8]; 62] = [
    b"ALTER ",
    b"CREATE ",
    b"USER ",
    b"ROLE",
    b" bob ",
    b"PASSWORD ",
    b"UNTIL ",
    b"NULL",
    b"MAPPING ",
    b"SERVER s ",
    b"OPTIONS (",
    b"user ",
    b"SUBSCRIPTION ",
    b"CONNECTION ",
    b"SET ",
    b"my.token",
    b"my.x",
    b" = ",
    b" TO ",
    b"LOCAL ",
    b"set_config(",
    b"crypt(",
    b"IDENTIFIED ",
    b"BY ",
    b"PREPARE p AS ",
    b"EXECUTE ",
    b"UPDATE ",
    b"DO ",
    b"'",
    b"''",
    b"'",
    b"\"",
    b"$$",
    b"$a$",
    b"$",
    b"$1",
    b"E'",
    b"U&'",
    b"\\",
    b"\\'",
    b"--",
    b"\n",
    b"/*",
    b"*/",
    b"/",
    b"-",
    b";",
    b",",
    b"(",
    b")",
    b"%",
    b"%L",
    b"password=",
    b"host=x ",
    b"postgres://u:",
    b"http://a.b:1",
    b"@",
    b"0",
    b"e",
    b"n",
    b"\xff\0",
    b" ",
];

#[test]
fn any_bytes_are_redacted_the_same_however_they_are_cut() {
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let (mut sensitive, mut starred) = (0, 0);
    for round in 0..20_000 {
        let mut text = Vec::new();
        for _ in 0..numbers.below(40) {
            text.extend_from_slice(PIECES[numbers.below(PIECES.len())]);
            if numbers.below(40) == 0 {
                text.push(numbers.below(256) as u8);
            }
        }
        let whole = redact([text.as_slice()].into_iter());
        sensitive += usize::from(whole.1);
        starred += usize::from(whole.0 != text);
        assert!(whole.1 || whole.0 == text || whole.0.len() == text.len());
        for cut in [1, 2, 3 + numbers.below(20)] {
            assert_eq!(redact(text.chunks(cut)), whole, "round {round}, cut at every {cut}: {}", text.escape_ascii());
        }
        for about in [false, true] {
            let read = |cut| {
                let mut redactor = ErrorRedactor::new(about);
                stars(text.chunks(cut), |piece, secret| redactor.feed(piece, secret))
            };
            assert_eq!(read(1), read(text.len().max(1)), "round {round}: {}", text.escape_ascii());
        }
    }
    assert!(sensitive > 5_000 && starred > 5_000, "{sensitive} sensitive, {starred} with secrets");
}

#[test]
fn what_is_no_utf8_is_a_letter_as_it_is_to_postgresql() {
    let (out, sensitive) = redact([&b"ALTER USER b\xff\xfe PASSWORD '\xff\xe9' VALID UNTIL '\xe9'"[..]].into_iter());
    assert_eq!(out, b"ALTER USER b\xff\xfe PASSWORD '**' VALID UNTIL '\xe9'");
    assert!(sensitive);
    let latin = b"INSERT INTO caf\xe9 VALUES ('\xe9t\xe9')";
    assert_eq!(redact([&latin[..]].into_iter()), (latin.to_vec(), false));
}

#[test]
fn endless_words_tags_and_comments_end_in_doubt_and_not_in_memory() {
    let long = "x".repeat(5_000);
    let kept = [format!("SELECT {long} 'kept' ${long}$ 'kept'"), format!("SELECT {} 'kept'", "/*".repeat(5_000))];
    for text in kept {
        assert_eq!(redact([text.as_bytes()].into_iter()), (text.clone().into_bytes(), false));
    }
    let text = format!("ALTER USER bob PASSWORD ${long}$secret${long}$; SELECT 1");
    let (out, sensitive) = redact([text.as_bytes()].into_iter());
    let behind = text.len() - "secret$; SELECT 1".len() - long.len();
    assert!(sensitive && out[behind..].iter().all(|byte| *byte == b'*'), "{}", out[behind..].escape_ascii());
    let text = format!("CREATE USER MAPPING FOR a SERVER b OPTIONS ({long} 'secret')");
    assert!(redact([text.as_bytes()].into_iter()).0.ends_with(b" '******')"));
    // Nobody knows what ends such a name, cut or not.
    let text = format!("SET {long}conninfo = 'secret'; SET {} = 'secret'", &long[..64]);
    let whole = redact([text.as_bytes()].into_iter());
    assert!(whole.0.ends_with(b"'secret'") && !whole.0.starts_with(&text.as_bytes()[..text.len() - 8]));
    assert_eq!(redact(text.as_bytes().chunks(1)), whole);
    let text = format!("SELECT set_config('{long}', 'secret', false)");
    assert!(redact([text.as_bytes()].into_iter()).0.ends_with(b", '******', false)"));
    let text = format!("SELECT {}crypt('secret')", "crypt(".repeat(5_000));
    assert!(redact([text.as_bytes()].into_iter()).0.ends_with(b"crypt('******')"));
}

#[test]
fn a_redactor_takes_the_memory_it_has() {
    // One for each literal in a literal: a function, EXECUTE in it, and so on.
    assert!(size_of::<Scanner>() <= 512, "{} bytes", size_of::<Scanner>());
}

fn redact_error(payload: &[u8], cut: usize, sensitive: bool) -> Vec<u8> {
    let mut redactor = ErrorRedactor::new(sensitive);
    stars(payload.chunks(cut), |piece, secret| redactor.feed(piece, secret))
}

#[test]
fn secrets_in_errors_are_found_and_nothing_else() {
    let entries = corpus(include_str!("errors.txt"));
    assert!(entries.len() >= 40, "{} messages", entries.len());
    let mut faults = Vec::new();
    for entry in &entries {
        // `!` stands for a message about a sensitive statement.
        let sensitive = entry.sensitive == Some(true) && entry.stated;
        let out = redact_error(&entry.text, entry.text.len(), sensitive);
        faults.extend(fault(entry, &out));
        for cut in 1..entry.text.len() {
            assert_eq!(redact_error(&entry.text, cut, sensitive), out, "line {}, cut at every {cut}", entry.line);
        }
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn quotation_marks_of_any_language_begin_a_secret() {
    for quoted in ["»hunter2«", "«hunter2»", "“hunter2”", "„hunter2“", "「hunter2」"] {
        let payload = format!("SFEHLER\0MSyntaxfehler bei {quoted}\0P5\0\0");
        let out = redact_error(payload.as_bytes(), 3, true);
        let expected = format!("SFEHLER\0MSyntaxfehler bei {}\0P5\0\0", "*".repeat(quoted.len()));
        assert_eq!(out.escape_ascii().to_string(), expected.as_bytes().escape_ascii().to_string());
    }
}
