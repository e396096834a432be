//! JSON lines with keys in the order they are written, fit for a terminal as well as for a program.

use std::fmt::Write as _;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use casemate_recorder::transcript::event::Value;
use serde::Serialize;

use casemate_screen::safe::is_hostile;

/// One JSON object on one line.
#[derive(Debug)]
pub(crate) struct Object(String);

impl Object {
    /// Begins an object.
    pub(crate) fn new() -> Self {
        Self("{".to_owned())
    }

    /// Adds a key. Nothing that is added here can fail to become JSON: numbers, text, lists and plain structs.
    pub(crate) fn with(mut self, key: &str, value: impl Serialize) -> Self {
        self.key(key);
        self.0.push_str(&serde_json::to_string(&value).unwrap_or_else(|_| "null".to_owned()));
        self
    }

    /// Adds a field of an event. Bytes are text where they are UTF-8, else an object with their base64; digests are hex.
    pub(crate) fn with_value(mut self, key: &str, value: &Value) -> Self {
        self.key(key);
        push_value(&mut self.0, key, value);
        self
    }

    fn key(&mut self, key: &str) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push_str(&serde_json::to_string(key).unwrap_or_default());
        self.0.push(':');
    }

    /// Ends the object: one line without its line feed, free of characters that could steer a terminal.
    pub(crate) fn finish(mut self) -> String {
        self.0.push('}');
        armour(self.0)
    }
}

/// Writes hostile characters as escapes. They can only stand inside strings, where an escape means the same.
pub(crate) fn armour(json: String) -> String {
    if !json.chars().any(is_hostile) {
        return json;
    }
    let mut out = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if is_hostile(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// Shows bytes as lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        // Writing to a String cannot fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// Whether a field of that name holds a digest.
pub(crate) fn is_digest(name: &str) -> bool {
    name == "blake3" || name.ends_with("_blake3")
}

fn push_value(out: &mut String, key: &str, value: &Value) {
    let text = match value {
        Value::Uint(number) => serde_json::to_string(number),
        Value::Text(text) => serde_json::to_string(text),
        Value::Bytes(bytes) if is_digest(key) => serde_json::to_string(&hex(bytes)),
        Value::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => serde_json::to_string(text),
            Err(_) => Ok(format!("{{\"base64\":\"{}\"}}", STANDARD.encode(bytes))),
        },
        Value::List(values) => {
            out.push('[');
            for (n, value) in values.iter().enumerate() {
                if n > 0 {
                    out.push(',');
                }
                push_value(out, key, value);
            }
            out.push(']');
            return;
        }
    };
    out.push_str(&text.unwrap_or_else(|_| "null".to_owned()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_keep_their_order_and_hostile_text_is_escaped() {
        let line = Object::new()
            .with("z", 1)
            .with("a", "x\x1b\u{9b}\u{e0001}\"")
            .with_value("blob", &Value::from(b"\xff".as_slice()))
            .with_value("blake3", &Value::from(b"\x01\xff".as_slice()))
            .with_value("list", &Value::List(vec![Value::from(1u64), Value::from("b")]))
            .finish();
        assert_eq!(
            line,
            r#"{"z":1,"a":"x\u001b\u009b\udb40\udc01\"","blob":{"base64":"/w=="},"blake3":"01ff","list":[1,"b"]}"#
        );
        let back: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(back["a"], "x\x1b\u{9b}\u{e0001}\"");
    }
}
