//! `report`: what a vault means for those who pay for it. `--cost` says what its retention costs a month in each storage class.

mod cost;
mod prices;

use std::fmt::Write as _;
use std::io::Write;
use std::path::{Path, PathBuf};

use casemate_recorder::log::tile::{Content, TileName};
use cost::{Cost, Mix};
use prices::Prices;

use crate::ReplayError;
use crate::json::Object;
use crate::vault::Vault;
use crate::verify::logged_sessions;
use casemate_screen::safe::visible;

/// What a checkpoint takes: origin, size, root and a signature. No price depends on a byte more or less.
const NOTE_BYTES: u64 = 256;

/// What a leaf takes in a bundle, on average.
const LEAF_BYTES: u64 = 160;

/// A tile's hash.
const HASH_BYTES: u64 = 32;

/// A day in microseconds.
const DAY_US: f64 = 86_400_000_000.0;

/// What the figures do not hold.
const LEFT_OUT: [&str; 5] = [
    "keys of a management service (KMS) and their requests",
    "transfer out of the region, and reading by people",
    "replication to a second region: about the same again, and transfer",
    "checks after each upload (HEAD and listings), and the catalogue",
    "what a bucket has of the log where a directory was counted: it keeps partial tiles, and gets fewer checkpoints",
];

/// What is asked.
#[derive(Debug, Default)]
pub(crate) struct Options {
    /// Sessions a day; as many as were seen without it.
    pub(crate) per_day: Option<f64>,
    /// A table of prices in place of the program's own.
    pub(crate) prices: Option<PathBuf>,
    pub(crate) json: bool,
}

/// Writes what the retention of a vault costs.
pub(crate) fn cost(vault: &Vault, options: &Options, out: &mut dyn Write) -> Result<(), ReplayError> {
    let prices = Prices::read(options.prices.as_deref())?;
    let mix = measure(vault)?;
    let per_day = options.per_day.unwrap_or_else(|| mix.per_day());
    let months: Vec<Cost> = prices.classes.iter().map(|class| mix.month(class, per_day)).collect();
    let terabytes: Vec<Cost> = prices.classes.iter().map(|class| mix.terabyte(class)).collect();
    let text = match options.json {
        true => json(&mix, per_day, &prices, &months, &terabytes),
        false => text(&mix, per_day, &prices, &months, &terabytes),
    };
    let written = writeln!(out, "{text}").and_then(|()| out.flush());
    written.map_err(ReplayError::io("write to", Path::new("the output")))
}

/// Counts what the logs say of segments, and the files of the logs.
fn measure(vault: &Vault) -> Result<Mix, ReplayError> {
    let (sessions, _) = logged_sessions(vault)?;
    let mut mix = Mix::default();
    let (mut first_us, mut last_us, mut retention_us) = (u64::MAX, 0, 0.0);
    // What no log opens is a finding of `verify`; nobody put it there.
    for logged in sessions.iter().filter(|logged| logged.retain_until_us > 0) {
        mix.sessions += 1;
        mix.segments.extend(&logged.segment_bytes);
        retention_us += logged.retain_until_us.saturating_sub(logged.start_us) as f64;
        first_us = first_us.min(logged.start_us);
        last_us = last_us.max(logged.end_us.unwrap_or(logged.start_us));
    }
    if mix.sessions > 0 {
        mix.retention_days = retention_us / mix.sessions as f64 / DAY_US;
    }
    // A vault of an hour says little about a day.
    mix.days_seen = (last_us.saturating_sub(first_us) as f64 / DAY_US).max(1.0);
    for node in vault.nodes()?.0 {
        let files = vault.log(&node)?;
        mix.log_objects += (files.notes.len() + files.tiles.len()) as u64;
        mix.log_bytes += files.notes.len() as u64 * NOTE_BYTES + files.tiles.iter().map(tile_bytes).sum::<u64>();
    }
    Ok(mix)
}

fn tile_bytes(tile: &TileName) -> u64 {
    let each = if tile.content == Content::Entries { LEAF_BYTES } else { HASH_BYTES };
    u64::from(tile.width) * each
}

fn json(mix: &Mix, per_day: f64, prices: &Prices, months: &[Cost], terabytes: &[Cost]) -> String {
    let costs = |costs: &[Cost], put: &str| -> Vec<serde_json::Value> {
        let one = |cost: &Cost| {
            serde_json::json!({
                "class": cost.class,
                "storage_month": micro(cost.storage),
                put: micro(cost.puts),
                "verify_once": micro(cost.verify),
            })
        };
        costs.iter().map(one).collect()
    };
    Object::new()
        .with("sessions", mix.sessions)
        .with("segments", mix.segments.len())
        .with("segment_bytes", mix.segment_bytes())
        .with("log_objects", mix.log_objects)
        .with("log_bytes_about", mix.log_bytes)
        .with("object_bytes_mean", micro(mix.mean_object_bytes()))
        .with("puts_per_session", micro(mix.puts_per_session()))
        .with("days_seen", micro(mix.days_seen))
        .with("sessions_per_day_seen", micro(mix.per_day()))
        .with("sessions_per_day", micro(per_day))
        .with("retention_days", micro(mix.retention_days))
        .with("prices_as_of", &prices.as_of)
        .with("region", &prices.region)
        .with("currency", &prices.currency)
        .with("sources", &prices.sources)
        .with("per_month", costs(months, "put_month"))
        .with("per_tb", costs(terabytes, "put_once"))
        .with("left_out", LEFT_OUT)
        .finish()
}

/// A millionth is more than anybody can pay.
fn micro(number: f64) -> f64 {
    (number * 1e6).round() / 1e6
}

fn text(mix: &Mix, per_day: f64, prices: &Prices, months: &[Cost], terabytes: &[Cost]) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "{} sessions (portals and control transcripts included) in {:.1} days: {} segments of {} bytes, {} files of the log",
        mix.sessions,
        mix.days_seen,
        mix.segments.len(),
        mix.segment_bytes(),
        mix.log_objects
    );
    let _ = writeln!(
        out,
        "mean object {:.0} bytes, {:.2} segments and {:.2} PUT requests a session, kept for {:.0} days",
        mix.mean_object_bytes(),
        mix.segments_per_session(),
        mix.puts_per_session(),
        mix.retention_days
    );
    let place =
        format!("{}, {}, prices of {}", visible(&prices.currency), visible(&prices.region), visible(&prices.as_of));
    let _ = writeln!(out, "\nA month at {per_day:.1} sessions a day, when as much comes as goes ({place}):");
    table(&mut out, months, ["storage", "PUT", "total", "each full verify"]);
    let _ = writeln!(out, "\n1 TB of segments of this size:");
    table(&mut out, terabytes, ["storage a month", "PUT, once", "", "each full verify"]);
    out.push_str("\nPrices from:\n");
    prices.sources.iter().for_each(|source| out.push_str(&format!("  {}\n", visible(source))));
    out.push_str("Left out:\n  ");
    out.push_str(&LEFT_OUT.join("\n  "));
    out
}

/// Without a heading, a column of sums is left out.
fn table(out: &mut String, costs: &[Cost], [storage, puts, total, verify]: [&str; 4]) {
    let sum = |cost: &Cost| if total.is_empty() { String::new() } else { format!("{:.2}", cost.storage + cost.puts) };
    let _ = writeln!(out, "  {:14} {storage:>16} {puts:>12} {total:>10} {verify:>18}", "class");
    for cost in costs {
        let (class, sum) = (visible(&cost.class), sum(cost));
        let _ =
            writeln!(out, "  {class:14} {:>16.2} {:>12.2} {sum:>10} {:>18.2}", cost.storage, cost.puts, cost.verify);
    }
}
