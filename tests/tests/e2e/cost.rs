//! What a vault costs, counted by us and not by the report.

use std::fs;

use casemate_tests::client::Route;
use casemate_tests::rig::Lab;
use casemate_tests::vectors::files;
use serde_json::Value;

use super::closed_sessions;

#[test]
fn a_report_of_costs_counts_what_lies_in_the_vault() {
    let lab = Lab::start().unwrap();
    for command in ["echo one", "head -c 200000 /dev/urandom"] {
        assert_eq!(lab.exec(Route::Through, command).unwrap().code(), 0);
    }
    let vault = lab.vault();
    closed_sessions(&vault, 2);
    lab.bastion.stop();
    let report = |args: &[&str]| vault.replay("report", &[&["--cost"], args].concat()).unwrap().ok().unwrap().out();

    let found: Value = serde_json::from_str(&report(&["--json", "--per-day", "200"])).unwrap();
    let files = files(&vault.dir).unwrap();
    let segments: Vec<_> = files.iter().filter(|name| name.ends_with(".seg")).collect();
    let bytes: u64 = segments.iter().map(|name| fs::metadata(vault.dir.join(name)).unwrap().len()).sum();
    let log = files.iter().filter(|name| name.starts_with("v1/log/")).count();
    assert_eq!(found["sessions"], 3, "two and the control transcript: {found}");
    assert_eq!(found["segments"], segments.len());
    assert_eq!(found["segment_bytes"], bytes);
    assert_eq!(found["log_objects"], log);
    assert_eq!(found["puts_per_session"].as_f64(), Some((((segments.len() + log) as f64 / 3.0) * 1e6).round() / 1e6));
    assert_eq!((found["days_seen"].as_f64(), found["sessions_per_day_seen"].as_f64()), (Some(1.0), Some(3.0)));
    assert_eq!((found["sessions_per_day"].as_f64(), found["retention_days"].as_f64()), (Some(200.0), Some(400.0)));
    let standard = &found["per_month"][0];
    assert_eq!(standard["class"], "STANDARD");
    // Segments alone, by the price in the table: the log is more objects, not less.
    let least = 200.0 * 365.0 / 12.0 * segments.len() as f64 / 3.0 / 1000.0 * 0.005;
    assert!(standard["put_month"].as_f64().unwrap() > least, "{found}");
    assert_eq!(found["per_tb"][0]["storage_month"].as_f64(), Some(23.552));

    let text = report(&[]);
    for word in ["STANDARD_IA", "GLACIER_IR", "us-east-1", "3.0 sessions a day", "Left out:", "KMS"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let prices = lab.dir.join("prices.toml");
    fs::write(&prices, "as_of = 7").unwrap();
    let bad = vault.replay("report", &["--cost", "--prices", prices.to_str().unwrap()]).unwrap();
    assert_eq!((bad.code(), bad.err().contains("prices.toml")), (2, true), "{}", bad.err());
    assert_eq!(vault.replay("report", &[]).unwrap().code(), 2, "which report is to be said");
}
