//! Values of PostgreSQL as text: what was sent as text as it is, and of the binary forms those of the types that people meet.
//! What is not known is shown as hex, and nothing is guessed.

use super::frames::Fields;
use crate::json::hex;

/// OIDs of types (pg_type.dat).
pub(super) mod oid {
    pub(crate) const BOOL: u32 = 16;
    pub(crate) const BYTEA: u32 = 17;
    pub(crate) const CHAR: u32 = 18;
    pub(crate) const NAME: u32 = 19;
    pub(crate) const INT8: u32 = 20;
    pub(crate) const INT2: u32 = 21;
    pub(crate) const INT4: u32 = 23;
    pub(crate) const TEXT: u32 = 25;
    pub(crate) const OID: u32 = 26;
    pub(crate) const JSON: u32 = 114;
    pub(crate) const FLOAT4: u32 = 700;
    pub(crate) const FLOAT8: u32 = 701;
    pub(crate) const UNKNOWN: u32 = 705;
    pub(crate) const BPCHAR: u32 = 1042;
    pub(crate) const VARCHAR: u32 = 1043;
    pub(crate) const DATE: u32 = 1082;
    pub(crate) const TIME: u32 = 1083;
    pub(crate) const TIMESTAMP: u32 = 1114;
    pub(crate) const TIMESTAMPTZ: u32 = 1184;
    pub(crate) const NUMERIC: u32 = 1700;
    pub(crate) const UUID: u32 = 2950;
    pub(crate) const JSONB: u32 = 3802;
}

/// Arrays of those types.
const ARRAYS: [u32; 21] = [
    1000, 1001, 1002, 1003, 1005, 1007, 1009, 1014, 1015, 1016, 1021, 1022, 1028, 1115, 1182, 1183, 1185, 1231, 199,
    2951, 3807,
];

/// How deep an array may nest (`MAXDIM`).
const DIMENSIONS_MAX: i32 = 6;

/// Days and microseconds from 1970 to 2000, where PostgreSQL begins to count.
const DAYS_TO_2000: i64 = 10_957;
const DAY_US: i64 = 86_400 * 1_000_000;

/// Shows a value as PostgreSQL would write it: `format` 0 is text, 1 binary.
pub(super) fn shown(type_oid: u32, format: i16, value: &[u8]) -> String {
    let text = match format {
        0 => text(value),
        _ => binary(type_oid, value),
    };
    text.unwrap_or_else(|| format!("\\x{}", hex(value)))
}

fn text(value: &[u8]) -> Option<String> {
    std::str::from_utf8(value).ok().map(str::to_owned)
}

/// Reads a binary value; `None` where the type is not known or the bytes are not one of it.
fn binary(type_oid: u32, value: &[u8]) -> Option<String> {
    use oid::*;
    let mut fields = Fields(value);
    let shown = match type_oid {
        TEXT | VARCHAR | BPCHAR | NAME | CHAR | JSON | UNKNOWN => return text(value),
        BYTEA => return None,
        JSONB => {
            // The version of the form comes first.
            let (1, json) = (fields.u8()?, fields.0) else { return None };
            return text(json);
        }
        BOOL => if fields.u8()? == 0 { "f" } else { "t" }.to_owned(),
        INT2 => fields.i16()?.to_string(),
        INT4 => fields.i32()?.to_string(),
        INT8 => fields.i64()?.to_string(),
        OID => fields.u32()?.to_string(),
        FLOAT4 => float(f32::from_bits(fields.u32()?).into(), f32::from_bits(Fields(value).u32()?).to_string()),
        FLOAT8 => {
            let number = f64::from_bits(fields.i64()?.cast_unsigned());
            float(number, number.to_string())
        }
        UUID => uuid(fields.bytes(16)?),
        DATE => date(fields.i32()?)?,
        TIME => clock(fields.i64()?),
        TIMESTAMP => timestamp(fields.i64()?)?,
        TIMESTAMPTZ => timestamp(fields.i64()?)? + "+00",
        NUMERIC => numeric(&mut fields)?,
        array if ARRAYS.contains(&array) => array_of(&mut fields)?,
        _ => return None,
    };
    // Anything left over means that it is something else.
    fields.0.is_empty().then_some(shown)
}

fn float(number: f64, plain: String) -> String {
    match number {
        number if number.is_nan() => "NaN".to_owned(),
        number if number.is_infinite() => if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned(),
        _ => plain,
    }
}

fn uuid(bytes: &[u8]) -> String {
    let digits = hex(bytes);
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|place| digits.get(place).unwrap_or_default());
    parts.join("-")
}

/// Shows a day, by Howard Hinnant's `civil_from_days`; years that no calendar has are left alone.
fn date(days_of_2000: i32) -> Option<String> {
    match days_of_2000 {
        i32::MAX => return Some("infinity".to_owned()),
        i32::MIN => return Some("-infinity".to_owned()),
        _ => {}
    }
    let days = i64::from(days_of_2000) + DAYS_TO_2000 + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year >= 1).then(|| format!("{year:04}-{month:02}-{day:02}"))
}

fn clock(us: i64) -> String {
    let (seconds, fraction) = (us.div_euclid(1_000_000), us.rem_euclid(1_000_000));
    let whole = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    match format!("{fraction:06}").trim_end_matches('0') {
        "" => whole,
        fraction => format!("{whole}.{fraction}"),
    }
}

fn timestamp(us_of_2000: i64) -> Option<String> {
    match us_of_2000 {
        i64::MAX => return Some("infinity".to_owned()),
        i64::MIN => return Some("-infinity".to_owned()),
        _ => {}
    }
    let days = i32::try_from(us_of_2000.div_euclid(DAY_US)).ok()?;
    Some(format!("{} {}", date(days)?, clock(us_of_2000.rem_euclid(DAY_US))))
}

/// Reads digits to the base of 10,000 (utils/adt/numeric.c, `numeric_recv`).
fn numeric(fields: &mut Fields<'_>) -> Option<String> {
    let (count, weight, sign, scale) = (fields.count()?, fields.i16()?, fields.count()?, fields.count()?);
    let sign = match sign {
        0x0000 => "",
        0x4000 => "-",
        0xc000 => return Some("NaN".to_owned()),
        0xd000 => return Some("Infinity".to_owned()),
        0xf000 => return Some("-Infinity".to_owned()),
        _ => return None,
    };
    let digits: Vec<i16> = (0..count).map_while(|_| fields.i16()).collect();
    if digits.len() != count || digits.iter().any(|digit| !(0..10_000).contains(digit)) {
        return None;
    }
    let digit = |place: i32| -> i16 {
        // The first digit has the weight; places that are not there are zero.
        usize::try_from(i32::from(weight) - place).ok().and_then(|at| digits.get(at)).copied().unwrap_or(0)
    };
    let mut shown = sign.to_owned();
    let top = i32::from(weight).max(0);
    for place in (0..=top).rev() {
        shown += &if place == top { digit(place).to_string() } else { format!("{:04}", digit(place)) };
    }
    if scale > 0 {
        let places = i32::try_from(scale.div_ceil(4)).ok()?;
        let fraction: String = (1..=places).map(|place| format!("{:04}", digit(-place))).collect();
        shown.push('.');
        shown += fraction.get(..scale)?;
    }
    Some(shown)
}

/// Reads an array (utils/adt/arrayfuncs.c, `array_recv`). Lower bounds other than 1 are left alone.
fn array_of(fields: &mut Fields<'_>) -> Option<String> {
    let (dimensions, _has_nulls, element) = (fields.i32()?, fields.i32()?, fields.u32()?);
    if dimensions == 0 {
        return Some("{}".to_owned());
    }
    if !(1..=DIMENSIONS_MAX).contains(&dimensions) {
        return None;
    }
    let mut lengths = Vec::new();
    for _ in 0..dimensions {
        let (length, lower) = (fields.i32()?, fields.i32()?);
        if length < 1 || lower != 1 {
            return None;
        }
        lengths.push(length);
    }
    elements(fields, &lengths, element)
}

fn elements(fields: &mut Fields<'_>, lengths: &[i32], element: u32) -> Option<String> {
    let (length, inner) = lengths.split_first()?;
    let mut shown = String::from("{");
    for at in 0..*length {
        if at > 0 {
            shown.push(',');
        }
        if !inner.is_empty() {
            shown += &elements(fields, inner, element)?;
            continue;
        }
        match fields.value()? {
            None => shown.push_str("NULL"),
            Some(value) => push_element(&mut shown, &binary(element, value)?),
        }
    }
    shown.push('}');
    Some(shown)
}

/// Quotes an element where a reader of arrays would need it.
fn push_element(out: &mut String, text: &str) {
    let plain = |c: char| !c.is_whitespace() && !matches!(c, '{' | '}' | ',' | '"' | '\\');
    if !text.is_empty() && text.chars().all(plain) && !text.eq_ignore_ascii_case("null") {
        out.push_str(text);
        return;
    }
    out.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(type_oid: u32, value: &[u8]) -> String {
        shown(type_oid, 1, value)
    }

    #[test]
    fn text_is_shown_as_it_is() {
        assert_eq!(shown(0, 0, b"it's \xc3\xa9"), "it's é");
        assert_eq!(shown(oid::INT4, 0, b"\xff"), "\\xff");
        assert_eq!(of(oid::VARCHAR, b"x"), "x");
        assert_eq!(of(oid::JSONB, b"\x01{\"a\": 1}"), "{\"a\": 1}");
    }

    #[test]
    fn numbers_are_read() {
        assert_eq!(of(oid::BOOL, &[1]), "t");
        assert_eq!(of(oid::INT2, &(-2i16).to_be_bytes()), "-2");
        assert_eq!(of(oid::INT4, &7i32.to_be_bytes()), "7");
        assert_eq!(of(oid::INT8, &i64::MIN.to_be_bytes()), "-9223372036854775808");
        assert_eq!(of(oid::OID, &u32::MAX.to_be_bytes()), "4294967295");
        assert_eq!(of(oid::FLOAT4, &1.5f32.to_be_bytes()), "1.5");
        assert_eq!(of(oid::FLOAT8, &0.1f64.to_be_bytes()), "0.1");
        assert_eq!(of(oid::FLOAT8, &f64::NEG_INFINITY.to_be_bytes()), "-Infinity");
    }

    #[test]
    fn numerics_keep_every_digit() {
        let numeric = |digits: &[i16], weight: i16, sign: u16, scale: u16| {
            let mut out = Vec::new();
            for part in [digits.len() as u16, weight.cast_unsigned(), sign, scale] {
                out.extend_from_slice(&part.to_be_bytes());
            }
            digits.iter().for_each(|digit| out.extend_from_slice(&digit.to_be_bytes()));
            of(oid::NUMERIC, &out)
        };
        assert_eq!(numeric(&[], 0, 0, 0), "0");
        assert_eq!(numeric(&[1, 2345, 6789], 2, 0, 0), "123456789");
        assert_eq!(numeric(&[12, 3450], 0, 0x4000, 2), "-12.34");
        assert_eq!(numeric(&[1], 2, 0, 3), "100000000.000");
        assert_eq!(numeric(&[5], -2, 0, 8), "0.00000005");
        assert_eq!(numeric(&[], 0, 0xc000, 0), "NaN");
        assert_eq!(numeric(&[10_000], 0, 0, 0), "\\x00010000000000002710");
    }

    #[test]
    fn times_are_read() {
        assert_eq!(of(oid::DATE, &0i32.to_be_bytes()), "2000-01-01");
        assert_eq!(of(oid::DATE, &9_822i32.to_be_bytes()), "2026-11-22");
        assert_eq!(of(oid::DATE, &(-1i32).to_be_bytes()), "1999-12-31");
        assert_eq!(of(oid::DATE, &59i32.to_be_bytes()), "2000-02-29");
        assert_eq!(of(oid::DATE, &i32::MAX.to_be_bytes()), "infinity");
        assert_eq!(of(oid::TIME, &(3_661 * 1_000_000i64 + 500_000).to_be_bytes()), "01:01:01.5");
        assert_eq!(of(oid::TIMESTAMP, &(-1i64).to_be_bytes()), "1999-12-31 23:59:59.999999");
        assert_eq!(of(oid::TIMESTAMPTZ, &DAY_US.to_be_bytes()), "2000-01-02 00:00:00+00");
        let uuid = *b"\x01\x23\x45\x67\x89\xab\xcd\xef\x01\x23\x45\x67\x89\xab\xcd\xef";
        assert_eq!(of(oid::UUID, &uuid), "01234567-89ab-cdef-0123-456789abcdef");
    }

    #[test]
    fn arrays_are_read_and_quoted() {
        let array = |dimensions: &[i32], element: u32, values: &[Option<&[u8]>]| {
            let mut out = Vec::new();
            for part in [dimensions.len() as i32, 1, element.cast_signed()] {
                out.extend_from_slice(&part.to_be_bytes());
            }
            dimensions.iter().for_each(|len| out.extend([len.to_be_bytes(), 1i32.to_be_bytes()].concat()));
            for value in values {
                out.extend_from_slice(&value.map_or(-1, |value| value.len() as i32).to_be_bytes());
                out.extend_from_slice(value.unwrap_or_default());
            }
            of(1009, &out)
        };
        assert_eq!(array(&[], oid::TEXT, &[]), "{}");
        assert_eq!(array(&[3], oid::TEXT, &[Some(b"a b"), None, Some(b"q\"\\")]), r#"{"a b",NULL,"q\"\\"}"#);
        let one = 1i32.to_be_bytes();
        assert_eq!(array(&[2, 2], oid::INT4, &[Some(&one[..]); 4]), "{{1,1},{1,1}}");
        assert_eq!(array(&[3], oid::TEXT, &[Some(b"a")]).get(..2), Some("\\x"), "cut short");
    }

    #[test]
    fn what_is_not_known_is_hex() {
        assert_eq!(of(0, b"\x01\xff"), "\\x01ff");
        assert_eq!(of(oid::BYTEA, b"\x00"), "\\x00");
        assert_eq!(of(oid::INT4, b"\x00"), "\\x00");
        assert_eq!(of(oid::INT4, b"\x00\x00\x00\x01\x00"), "\\x0000000100");
    }
}
