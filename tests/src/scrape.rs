//! Reads what the bastion says about itself over HTTP, and takes no exposition that is not well-formed to the letter.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// An answer over HTTP.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The status line and the headers.
    pub head: String,
    /// What follows them.
    pub body: String,
}

/// Asks `METHOD PATH` on a port of 127.0.0.1.
///
/// # Errors
/// When there is no whole answer within ten seconds.
pub fn ask(port: u16, method: &str, path: &str) -> Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(format!("{method} {path} HTTP/1.1\r\nHost: bastion\r\n\r\n").as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").context("no end of the headers")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status")?;
    Ok(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

/// All samples of an exposition, by name and labels as they were written.
#[derive(Debug, Clone)]
pub struct Scrape(BTreeMap<String, f64>);

impl Scrape {
    /// Scrapes the figures.
    ///
    /// # Errors
    /// When there are none, or they break the format.
    pub fn of(port: u16) -> Result<Self> {
        let answer = ask(port, "GET", "/metrics")?;
        ensure!(answer.status == 200, "{}", answer.head);
        let kind = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
        ensure!(answer.head.to_ascii_lowercase().contains(kind), "{}", answer.head);
        Self::parse(&answer.body)
    }

    /// Reads an exposition.
    ///
    /// # Errors
    /// When it breaks the format.
    pub fn parse(text: &str) -> Result<Self> {
        let rest = text.strip_suffix("# EOF\n").context("no # EOF at the end")?;
        let (mut samples, mut families) = (BTreeMap::new(), BTreeSet::new());
        let (mut family, mut kind) = (String::new(), String::new());
        for line in rest.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                let mut words = comment.splitn(3, ' ');
                let (Some(what), Some(name), Some(said)) = (words.next(), words.next(), words.next()) else {
                    bail!("not a comment of the format: {line}");
                };
                ensure!(is_name(name), "no name: {line}");
                match what {
                    "HELP" => {
                        ensure!(families.insert(name.to_owned()), "told twice: {line}");
                        ensure!(said.len() > 10 && !said.ends_with(".."), "no help: {line}");
                        (family, kind) = (name.to_owned(), String::new());
                    }
                    "TYPE" => {
                        ensure!(name == family && kind.is_empty(), "out of place: {line}");
                        ensure!(["counter", "gauge", "histogram", "info"].contains(&said), "no type: {line}");
                        said.clone_into(&mut kind);
                    }
                    "UNIT" => ensure!(name == family && name.ends_with(&format!("_{said}")), "no unit: {line}"),
                    _ => bail!("not a comment of the format: {line}"),
                }
                continue;
            }
            let (series, value) = line.rsplit_once(' ').with_context(|| format!("no value: {line}"))?;
            let (name, labels) = series.split_once('{').map_or((series, None), |(name, rest)| (name, Some(rest)));
            let suffix = name.strip_prefix(&family).with_context(|| format!("of no family: {line}"))?;
            let suffixes: &[&str] = match kind.as_str() {
                "counter" => &["_total"],
                "gauge" => &[""],
                "histogram" => &["_bucket", "_sum", "_count"],
                "info" => &["_info"],
                _ => bail!("no type before {line}"),
            };
            ensure!(is_name(name) && name.starts_with("casemate_") && suffixes.contains(&suffix), "no name: {line}");
            labels.map_or(Ok(()), check_labels).with_context(|| line.to_owned())?;
            let value: f64 = value.parse().with_context(|| format!("no number: {line}"))?;
            ensure!(value.is_finite() && value >= 0.0, "no figure: {line}");
            ensure!(samples.insert(series.to_owned(), value).is_none(), "twice: {line}");
        }
        Ok(Self(samples))
    }

    /// Returns a sample, by its name and labels as they are written.
    ///
    /// # Errors
    /// When there is none.
    pub fn value(&self, series: &str) -> Result<f64> {
        self.0.get(series).copied().with_context(|| format!("no {series} among {:#?}", self.0.keys()))
    }

    /// Returns the sum of the samples of that name.
    pub fn sum(&self, name: &str) -> f64 {
        let of = |series: &&String| series.split('{').next() == Some(name);
        self.0.iter().filter(|(series, _)| of(series)).map(|(_, value)| value).sum()
    }

    /// Returns all samples.
    pub fn all(&self) -> &BTreeMap<String, f64> {
        &self.0
    }
}

fn is_name(text: &str) -> bool {
    let first = |c: u8| c.is_ascii_lowercase() || c == b'_';
    text.bytes().next().is_some_and(first) && text.bytes().all(|c| first(c) || c.is_ascii_digit())
}

/// `key="value",key="value"}`; no value of ours needs an escape.
fn check_labels(labels: &str) -> Result<()> {
    for label in labels.strip_suffix('}').context("labels do not end")?.split(',') {
        let (key, value) = label.split_once('=').context("a label without a value")?;
        let inner = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).context("no quotes")?;
        ensure!(is_name(key) && !inner.contains(['"', '\\']), "no label");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# HELP casemate_x_bytes What it says.\n# TYPE casemate_x_bytes counter\n# UNIT casemate_x_bytes bytes\n\
                        casemate_x_bytes_total{side=\"a\"} 1\ncasemate_x_bytes_total{side=\"b\"} 2.5\n# EOF\n";

    #[test]
    fn what_is_well_formed_is_read_and_nothing_else() {
        let scrape = Scrape::parse(GOOD).unwrap();
        assert_eq!(
            (scrape.value("casemate_x_bytes_total{side=\"b\"}").unwrap(), scrape.sum("casemate_x_bytes_total")),
            (2.5, 3.5)
        );
        for (from, to) in [
            ("# EOF\n", ""),
            ("_total{side=\"a\"} 1", "{side=\"a\"} 1"),
            ("side=\"b\"", "side=\"a\""),
            ("} 1\n", "} one\n"),
            ("} 1\n", "}\n"),
            ("side=\"a\"", "side=a"),
            ("counter", "number"),
            ("# TYPE casemate_x_bytes counter\n", ""),
            ("bytes bytes", "bytes seconds"),
            (" 2.5", " NaN"),
            ("casemate_x_bytes_total{side=\"b\"}", "casemate_y_total"),
        ] {
            assert!(GOOD.contains(from) && Scrape::parse(&GOOD.replace(from, to)).is_err(), "{from:?} to {to:?}");
        }
    }
}
