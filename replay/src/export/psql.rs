//! What psql does to a script before a server sees it: it puts the values of its variables in the place of `:NAME`, `:'NAME'`,
//! `:"NAME"` and `:{?NAME}`. Some variables hold what a server said last, which the recorded person had a say in.
//!
//! Sans-IO. Reads SQL as psql's lexer does (psqlscan.l), as far as that is needed, for text without a backslash; in doubt it says yes.

/// Whether psql may put something into `text`, or might read it otherwise than it is read here.
pub(super) fn may_interpolate(text: &str) -> bool {
    let bytes = text.as_bytes();
    let (mut at, mut before) = (0, b' ');
    while let Some(from) = bytes.get(at..)
        && let Some((byte, rest)) = from.split_first()
    {
        let skipped = match (byte, rest.first()) {
            (b'\'' | b'"', _) => closing(rest, &[*byte]),
            (b'$', _) => match dollar_quote(from) {
                // Behind a name it belongs to that, and behind a number it does not: too fine a point to stake anything on.
                Some(_) if is_word(before) => return true,
                Some(quote) => {
                    let quoted = from.get(quote.len()..).unwrap_or_default();
                    closing(quoted, quote).map(|len| quote.len() - 1 + len)
                }
                None => Some(0),
            },
            (b'-', Some(b'-')) => Some(rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len())),
            (b'/', Some(b'*')) => comment(rest),
            (b':', Some(b':' | b'=')) => Some(1),
            (b':', Some(b'\'' | b'"' | b'{')) => return true,
            (b':', Some(next)) if is_word(*next) => return true,
            _ => Some(0),
        };
        // What does not end takes in whatever follows it in the script.
        let Some(skipped) = skipped else { return true };
        before = *byte;
        at += 1 + skipped;
    }
    false
}

/// Returns up to where `rest` closes a quotation, that included. A quote that is doubled closes one and opens the next, which comes to
/// the same.
fn closing(rest: &[u8], end: &[u8]) -> Option<usize> {
    rest.windows(end.len()).position(|window| window == end).map(|found| found + end.len())
}

/// Returns what opens and closes the dollar quotation that `from` begins with, such as `$$` and `$body$`.
fn dollar_quote(from: &[u8]) -> Option<&[u8]> {
    let (_, tag) = from.split_first()?;
    let len = tag.iter().position(|byte| !is_word(*byte)).filter(|len| tag.get(*len) == Some(&b'$'))?;
    let is_name = !tag.first().is_some_and(u8::is_ascii_digit);
    from.get(..len + 2).filter(|_| is_name)
}

/// Returns how much of `rest`, which follows the first slash, a comment takes. Comments nest.
fn comment(rest: &[u8]) -> Option<usize> {
    let (mut depth, mut at) = (1, 1);
    while depth > 0 {
        match rest.get(at..at + 2)? {
            b"/*" => (depth, at) = (depth + 1, at + 2),
            b"*/" => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    Some(at)
}

/// Whether a byte may be in a name: of a variable as well as of anything else.
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_seen_wherever_psql_would_see_one() {
        for text in [
            "select a[1:LAST_ERROR_MESSAGE]",
            "select :'LAST_ERROR_MESSAGE'",
            "select :\"USER\"",
            "select :{?USER}",
            "select 1::int:USER",
            "select a[1:2]",
            "select :é",
            "select '':x",
            "select 'it''s' :x",
            "select $$ ' $$ :x ' ",
            "select $a$ $b$ $a$ :x $b$",
            "select /* /* */ */ :x",
            "select -- '\n :x '",
            "select 1 --:x\n+:x",
            "select x$$ :x $$",
            "select $1$$ :x $$",
            // Open at the end: what comes behind it would not be read as it is meant.
            "select 'open",
            "select \"open",
            "select $a$ $b$",
            "select /* open /* */",
        ] {
            assert!(may_interpolate(text), "{text}");
        }
    }

    #[test]
    fn what_is_quoted_or_no_variable_stays() {
        for text in [
            "select '{\"k\":\"v\"}'::jsonb, to_char(now(), 'HH24:MI:SS')",
            "select \"a:b\", 'it''s :x', $$ :x ' $$, $a$ $$ :x $a$",
            "select 1 -- :x",
            "select 1 --",
            "select /* :x /* :y */ :z */ 1",
            "select a[1 : 2], x := 3, y::int, $1, $2::text, 5 $ 6",
            "do $$ begin x := 1; end $$",
            "select ':'",
            ":",
            "",
        ] {
            assert!(!may_interpolate(text), "{text}");
        }
    }
}
