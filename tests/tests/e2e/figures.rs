//! Figures, health and alerts of the real daemon.

use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use casemate_tests::client::Route;
use casemate_tests::keys;
use casemate_tests::pg_client::PgRoute;
use casemate_tests::process::{nothing, run, wait_until};
use casemate_tests::pty::Terminal;
use casemate_tests::raw_pg::{RawPg, message};
use casemate_tests::rig::{Lab, Options, PORTAL};
use casemate_tests::scrape::{Scrape, ask};
use casemate_tests::sshd::{self, free_port};
use casemate_tests::tmpfs::SmallDisk;
use serde_json::Value;

use super::pg_clients::target;
use super::stalled_disk::Slow;
use super::{closed_sessions, control_says};

const PATIENCE: Duration = Duration::from_secs(60);

const LIVE: &str = "casemate_sessions_live{kind=\"session\"}";
const CLIENT_BYTES: &str = "casemate_recorded_bytes_total{side=\"client\"}";

/// A rig that shows figures, on this port.
fn lab_with_figures(options: Options) -> (Lab, u16) {
    let port = free_port().unwrap();
    let mut settings = options.settings.clone();
    settings.insert(
        "listen".to_owned(),
        format!("metrics = [\"127.0.0.1:{port}\"]").parse::<toml::Table>().unwrap().into(),
    );
    (Lab::with(&Options { settings, ..options }).unwrap(), port)
}

fn seconds_now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

fn refused(reason: &str) -> String {
    format!("casemate_logins_total{{outcome=\"refused\",reason=\"{reason}\"}}")
}

#[test]
fn figures_move_with_sessions_and_with_logins_that_fail() {
    let (lab, port) = lab_with_figures(Options::default());
    let scrape = || Scrape::of(port).unwrap();
    let first = scrape();
    assert_eq!(first.value(LIVE).unwrap(), 0.0);
    assert_eq!(first.value("casemate_recording_frozen").unwrap(), 0.0);
    assert_eq!(first.value("casemate_disk_stalled").unwrap(), 0.0);
    assert_eq!(first.value("casemate_build_info{version=\"0.1.0\"}").unwrap(), 1.0);
    assert!((seconds_now() - first.value("casemate_start_time_seconds").unwrap()).abs() < 60.0);
    assert!((seconds_now() - first.value("casemate_checkpoint_time_seconds").unwrap()).abs() < 60.0);

    let mut shell = Terminal::start(&lab.client.ssh(Route::Through, &["-tt"]), 80, 24).unwrap();
    shell.type_in(b"echo li''ve\r").unwrap();
    shell.expect("live", PATIENCE).unwrap();
    let during = scrape();
    assert_eq!(during.value(LIVE).unwrap(), 1.0);
    assert_eq!(during.value("casemate_sessions_opened_total{kind=\"session\"}").unwrap(), 1.0);
    assert!(during.value(CLIENT_BYTES).unwrap() >= 12.0);
    assert!(during.sum("casemate_recorded_bytes_total") > during.value(CLIENT_BYTES).unwrap());
    assert!(during.value("casemate_journal_bytes").unwrap() > 0.0);
    assert!(
        wait_until(PATIENCE, || scrape().value("casemate_unsealed_bytes").unwrap() > 12.0),
        "events wait for a block"
    );

    let stranger = lab.dir.join("stranger");
    keys::make(&stranger, "ed25519").unwrap();
    let own = lab.identity();
    for (reason, login, identity) in [
        ("key", "alice+web1", &stranger),
        ("person", "nobody+web1", &stranger),
        ("name", "a+b+c+d", &own),
        ("denied", "alice+web9", &own),
    ] {
        let before = scrape().value(&refused(reason)).unwrap();
        // With that key alone: one of the client's configuration would be offered too.
        let mut ssh = std::process::Command::new("ssh");
        let known = format!("UserKnownHostsFile={}", lab.client.known_hosts().display());
        ssh.args([
            "-F",
            "none",
            "-o",
            &known,
            "-o",
            "IdentityAgent=none",
            "-o",
            "BatchMode=yes",
            "-o",
            "IdentitiesOnly=yes",
        ]);
        ssh.arg("-i").arg(identity).args(["-p", &lab.bastion.port.to_string(), "-l", login, "127.0.0.1", "echo in"]);
        assert_eq!(run(&mut ssh, nothing(), PATIENCE).unwrap().out(), "");
        let moved = || scrape().value(&refused(reason)).unwrap() > before;
        assert!(wait_until(PATIENCE, moved), "{reason}: {:#?}", scrape().all());
    }
    assert_eq!(scrape().value(&refused("other")).unwrap(), 0.0);

    shell.type_in(b"exit\r").unwrap();
    shell.wait(PATIENCE).unwrap();
    closed_sessions(&lab.vault(), 1);
    assert!(wait_until(PATIENCE, || scrape().value(LIVE).unwrap() == 0.0));
    let last = scrape();
    assert_eq!(last.sum("casemate_sessions_closed_total"), 1.0, "{:#?}", last.all());
    assert_eq!(last.value("casemate_unshipped_segments").unwrap(), 0.0);
    assert!(last.value("casemate_log_entries").unwrap() > first.value("casemate_log_entries").unwrap());
    // The buckets go on growing, and the last is all of them.
    let count = last.value("casemate_commit_duration_seconds_count").unwrap();
    let of = |bound: &str| last.value(&format!("casemate_commit_duration_seconds_bucket{{le=\"{bound}\"}}")).unwrap();
    assert!(count > first.value("casemate_commit_duration_seconds_count").unwrap());
    assert!(of("+Inf") == count && of("10.0") <= count && of("0.0001") <= of("0.001") && of("0.001") <= of("10.0"));
    // What only the disks know is asked every few seconds.
    let full = "casemate_filesystem_used_ratio{of=\"vault\"}";
    assert!(wait_until(PATIENCE, || scrape().value(full).is_ok_and(|full| full > 0.0 && full < 1.0)));
    assert!(scrape().value("casemate_spool_bytes").is_ok());

    // What came of a verification, for the same eyes.
    let file = lab.dir.join("verify.prom");
    let verdict = lab.vault().verify(&["--textfile", &file.display().to_string()]).unwrap();
    let text = fs::read_to_string(&file).unwrap();
    let figures = Scrape::parse(&format!("{text}# EOF\n")).unwrap();
    assert_eq!(figures.value("casemate_verify_exit_code").unwrap(), f64::from(verdict.exit));
    assert!((seconds_now() - figures.value("casemate_verify_last_run_timestamp_seconds").unwrap()).abs() < 60.0);
    let opened = figures.value("casemate_verify_opened_sessions").unwrap();
    assert!(opened >= 2.0 && figures.sum("casemate_verify_sessions") == opened, "{text}");
    for term in ["clean", "recovered", "unanchored", "missing", "altered"] {
        let series = format!("casemate_verify_sessions{{status=\"{term}\"}}");
        assert_eq!(figures.value(&series).unwrap(), verdict.term(term) as f64, "{term}");
    }
    let nowhere = lab.dir.join("nowhere").display().to_string();
    let failing = ["verify", &nowhere, "--textfile", &file.display().to_string()];
    let done = run(
        std::process::Command::new(casemate_tests::bins::path("casemate-replay").unwrap()).args(failing),
        nothing(),
        PATIENCE,
    );
    assert_eq!(done.unwrap().code(), 2);
    assert!(fs::read_to_string(&file).unwrap().contains("casemate_verify_exit_code 2\n"));
}

#[test]
fn figures_count_statements_by_what_became_of_them() {
    let (lab, port) = lab_with_figures(Options { postgres: Some(target("")), ..Options::default() });
    let outcomes = ["done", "empty", "failed", "skipped", "suspended", "unanswered"];
    let counts = || {
        let scrape = Scrape::of(port).unwrap();
        let series = |outcome| format!("casemate_pg_statements_total{{outcome=\"{outcome}\"}}");
        outcomes.map(|outcome| scrape.value(&series(outcome)).unwrap())
    };
    assert_eq!(counts(), [0.0; 6]);
    let mut client = RawPg::login(&lab.pg_access(PgRoute::Through).unwrap()).unwrap();
    client.query("select 1; select 2").unwrap();
    client.query("").unwrap();
    client.query("select 1; select 1/0; select 3").unwrap();
    let prepared = |sql: &[u8], rows| {
        [message::parse("", sql, &[]), message::bind("", "", &[]), message::execute("", rows)].concat()
    };
    let batch = [prepared(b"select 1", 0), prepared(b"select nonsense", 0), prepared(b"select 2", 0), message::sync()];
    client.send(&batch.concat()).unwrap();
    client.read_to(b'Z').unwrap();
    client.send(&[prepared(b"select generate_series(1, 3)", 1), message::sync()].concat()).unwrap();
    client.read_to(b'Z').unwrap();
    // What was forwarded was counted before. Done are two, one before the failure, and one of the batch; skipped is its rest.
    assert_eq!(counts(), [4.0, 1.0, 2.0, 2.0, 1.0, 0.0]);
    client.send(&message::query(b"select pg_sleep(600)")).unwrap();
    assert!(client.is_silent_for(Duration::from_millis(200)).unwrap());
    drop(client);
    assert!(wait_until(PATIENCE, || counts() == [4.0, 1.0, 2.0, 2.0, 1.0, 1.0]), "{:?}", counts());
}

#[test]
fn figures_who_asks_badly_or_holds_on_is_refused_and_slows_nobody() {
    let (lab, port) = lab_with_figures(Options::default());
    let health = ask(port, "GET", "/healthz").unwrap();
    assert_eq!((health.status, health.body.as_str()), (200, "recording\n"));
    for (method, path, status) in
        [("POST", "/metrics", 405), ("DELETE", "/healthz", 405), ("GET", "/", 404), ("GET", "/metrics/x", 404)]
    {
        assert_eq!(ask(port, method, path).unwrap().status, status, "{method} {path}");
    }
    let head = ask(port, "HEAD", "/metrics").unwrap();
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    // As many as may be there at once, none of which asks.
    let idle: Vec<_> = (0..16).map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
    assert!(wait_until(PATIENCE, || ask(port, "GET", "/healthz").is_err()), "one too many is not answered");
    assert_eq!(lab.exec(Route::Through, "echo well").unwrap().out(), "well\n");
    // They have five seconds for their question.
    assert!(wait_until(PATIENCE, || ask(port, "GET", "/healthz").is_ok()), "{}", lab.bastion.log());
    drop(idle);
    let long = format!("/{}", "x".repeat(64 * 1024));
    assert!(ask(port, "GET", &long).is_err() || ask(port, "GET", &long).unwrap().status >= 400);
    assert_eq!(ask(port, "GET", "/healthz").unwrap().status, 200);
}

/// A command for alerts that keeps what it is told, then does that.
fn pager(dir: &Path, then: &str) -> (PathBuf, toml::Table) {
    let (program, told) = (dir.join("page"), dir.join("told.jsonl"));
    fs::write(&program, format!("#!/bin/sh\ncat >> '{}'\n{then}\n", told.display())).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let settings = format!("[alerts]\ncommand = [{:?}, \"--from\", \"casemate\"]", program.display().to_string());
    (told, settings.parse().unwrap())
}

/// What the command was told of that kind.
fn told(file: &Path, kind: &str) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let all = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    all.filter(|alert| alert["alert"] == kind).collect()
}

#[test]
fn figures_and_health_show_a_full_disk_and_the_command_is_told() {
    let disk = SmallDisk::mount(64).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (file, settings) = pager(dir.path(), "");
    let limits = "journal = \"32MiB\"".parse().unwrap();
    let (lab, port) =
        lab_with_figures(Options { disk: Some(disk.path().to_owned()), limits, settings, ..Options::default() });
    assert_eq!(lab.exec_with(Route::Through, &[], "cat", &b"some input"[..]).unwrap().out(), "some input");
    assert_eq!(ask(port, "GET", "/healthz").unwrap().status, 200);
    let before = Scrape::of(port).unwrap();
    assert!(before.value(CLIENT_BYTES).unwrap() >= 10.0);

    let mut ssh = lab.client.ssh(Route::Through, &["-T"]);
    let command = "while head -c 125000 /dev/urandom; do sleep 0.02; done";
    let mut noise =
        ssh.arg("--").arg(command).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    // Who comes when the disk is full already is not let in, and fills nothing.
    let mut shown = noise.stdout.take().unwrap();
    shown.read_exact(&mut [0; 4096]).unwrap();
    std::thread::spawn(move || std::io::copy(&mut shown, &mut std::io::sink()));
    disk.take_up(None).unwrap();
    let down = || ask(port, "GET", "/healthz").is_ok_and(|health| health.status == 503);
    assert!(wait_until(PATIENCE, down), "{}", lab.bastion.log());
    noise.wait().unwrap();
    let health = ask(port, "GET", "/healthz").unwrap();
    assert!(health.body.contains("no space left for recordings"), "{}", health.body);
    assert_eq!(Scrape::of(port).unwrap().value("casemate_recording_frozen").unwrap(), 1.0);
    for (kind, text) in [("recording-stopped", "no space left"), ("spool-nearly-full", "make room")] {
        assert!(wait_until(PATIENCE, || !told(&file, kind).is_empty()), "{kind}: {}", lab.bastion.log());
        let alert = told(&file, kind).remove(0);
        assert!(alert["text"].as_str().unwrap().contains(text), "{alert}");
    }

    disk.give_back().unwrap();
    assert!(wait_until(PATIENCE, || ask(port, "GET", "/healthz").unwrap().status == 200), "{}", lab.bastion.log());
    let after = Scrape::of(port).unwrap();
    assert_eq!(after.value("casemate_recording_frozen").unwrap(), 0.0);
    assert!(after.value(CLIENT_BYTES).unwrap() >= before.value(CLIENT_BYTES).unwrap(), "what was counted stays");
    assert!(wait_until(PATIENCE, || !told(&file, "recording-resumed").is_empty()), "{}", lab.bastion.log());
    lab.bastion.stop();
    assert!(control_says(&lab.vault(), "alert", &["recording-resumed", "no space left"]));
}

#[test]
fn figures_of_alerts_that_are_told_recorded_and_slow_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let (file, settings) = pager(dir.path(), "sleep 600");
    let key = |name: &str| keys::make(&dir.path().join(name), "ed25519").unwrap();
    let (erin, other_host) = (key("erin"), key("host"));
    key("login");
    let user = sshd::current_user().unwrap();
    let pretender = sshd::Guard(sshd::Sshd::start(&dir.path().join("pretender"), None, "").unwrap());
    let more = format!(
        "[[person]]\nname = \"erin\"\nkeys = [\"{erin}\"]\nduties = [\"auditor\"]\n\
         [[target]]\nname = \"changed\"\naddress = \"127.0.0.1:{}\"\nkind = \"ssh\"\nhost_keys = [\"{other_host}\"]\n\
         [[target.role]]\nlogin = \"{user}\"\nkey_file = \"{}\"\n\
         [[access]]\nperson = \"alice\"\ntargets = [\"changed\"]\nroles = [\"{user}\"]\nreason = \"tests\"\n",
        pretender.0.port,
        dir.path().join("login").display()
    );
    let (lab, port) = lab_with_figures(Options { more, settings, ..Options::default() });

    // A configuration with a mistake, four times: told once, the others counted.
    let good = fs::read_to_string(lab.bastion.config()).unwrap();
    fs::write(lab.bastion.config(), format!("nonsense = 1\n{good}")).unwrap();
    let not_taken = "casemate_alerts_total{alert=\"reload-refused\"}";
    for times in 1..=4 {
        lab.bastion.reload();
        let raised = || Scrape::of(port).unwrap().value(not_taken).unwrap() >= f64::from(times);
        assert!(wait_until(PATIENCE, raised), "{}", lab.bastion.log());
    }
    assert!(wait_until(PATIENCE, || !told(&file, "reload-refused").is_empty()), "{}", lab.bastion.log());

    // A session that an auditor ends.
    let mut ssh = lab.client.ssh(Route::Through, &["-T"]);
    let mut victim =
        ssh.arg("sleep 600").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let as_erin = |verb: &str| {
        let mut ssh = lab.client.program("ssh");
        let identity = format!("IdentityFile={}", dir.path().join("erin").display());
        run(ssh.args(["-o", &identity, "-l", "erin", PORTAL, verb]), nothing(), PATIENCE).unwrap()
    };
    let mut id = String::new();
    assert!(wait_until(PATIENCE, || {
        let listed = as_erin("sessions --json").out();
        let mut sessions = listed.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let found = sessions.find(|session| session["person"] == "alice");
        id = found.map(|session| session["session"].as_str().unwrap().to_owned()).unwrap_or_default();
        !id.is_empty()
    }));
    assert_eq!(as_erin(&format!("kill {id}")).code(), 0);
    victim.wait().unwrap();
    assert!(wait_until(PATIENCE, || !told(&file, "session-killed").is_empty()), "{}", lab.bastion.log());
    let alert = told(&file, "session-killed").remove(0);
    assert_eq!(alert["session"], id.as_str());
    assert!(alert["text"].as_str().unwrap().contains("the session of alice was ended by erin"), "{alert}");
    assert!(alert["time"].as_str().unwrap().ends_with('Z') && alert["node"].is_string(), "{alert}");
    assert_eq!(alert["suppressed"], 0);

    // Both commands that may run at once sleep. A target that is another raises an alert; nobody waits for those ten seconds.
    let begin = Instant::now();
    let done = lab.exec_with(Route::Through, &["-l", "alice+changed"], "echo in", nothing()).unwrap();
    assert_eq!(done.out(), "");
    assert!(begin.elapsed() < Duration::from_secs(9), "alerts keep nobody waiting: {:?}", begin.elapsed());
    assert_eq!(lab.exec(Route::Through, "echo well").unwrap().out(), "well\n");
    assert!(wait_until(PATIENCE, || !told(&file, "host-key-changed").is_empty()), "{}", lab.bastion.log());
    let timed_out = "casemate_alert_commands_total{outcome=\"timed-out\"}";
    // Two at once: the third began when one of them had been killed.
    assert!(Scrape::of(port).unwrap().value(timed_out).unwrap() >= 1.0);
    let alert = told(&file, "host-key-changed").remove(0);
    assert!(alert["text"].as_str().unwrap().contains("target changed: host key SHA256:"), "{alert}");
    assert!(wait_until(PATIENCE, || Scrape::of(port).unwrap().value(timed_out).unwrap() >= 2.0));

    // More that do not log in than are recorded one by one.
    let flood = "casemate_alerts_total{alert=\"login-flood\"}";
    let flooded = wait_until(PATIENCE, || {
        (0..100).for_each(|_| drop(TcpStream::connect(("127.0.0.1", lab.bastion.port))));
        Scrape::of(port).unwrap().value(flood).unwrap() >= 1.0
    });
    assert!(flooded, "{:#?}", Scrape::of(port).unwrap().all());
    assert!(Scrape::of(port).unwrap().value(&refused("left")).unwrap() > 200.0, "counted, not only recorded");
    assert_eq!(Scrape::of(port).unwrap().value("casemate_alerts_lost_total").unwrap(), 0.0);

    // Another command without a restart.
    let other = dir.path().join("quick");
    fs::create_dir(&other).unwrap();
    let (quick, _) = pager(&other, "");
    let page = |dir: &Path| format!("{:?}", dir.join("page").display().to_string());
    fs::write(lab.bastion.config(), good.replace(&page(dir.path()), &page(&other))).unwrap();
    lab.bastion.reload();
    assert!(wait_until(PATIENCE, || lab.bastion.log().contains("configuration reloaded")), "{}", lab.bastion.log());
    lab.bastion.stop();
    // What was held back is told at the end, or after a minute where this test took one, with its number.
    let rest = [told(&quick, "reload-refused"), told(&file, "reload-refused")].concat();
    let suppressed: Vec<_> = rest.iter().map(|alert| alert["suppressed"].as_u64().unwrap()).collect();
    assert!(suppressed == [2, 0] || suppressed == [0, 2], "{rest:?}");
    assert!(!told(&quick, "login-flood").is_empty() || !told(&file, "login-flood").is_empty(), "{}", lab.bastion.log());
    for (kind, text) in [
        ("reload-refused", "nonsense"),
        ("session-killed", id.as_str()),
        ("host-key-changed", "SHA256:"),
        ("login-flood", "127.0.0.1"),
    ] {
        assert!(control_says(&lab.vault(), "alert", &[kind, text]), "{kind}");
    }
}

#[test]
fn figures_are_shown_while_the_disk_does_not_answer() {
    let dir = tempfile::tempdir().unwrap();
    let (file, settings) = pager(dir.path(), "");
    let (lab, port) = lab_with_figures(Options { settings, ..Options::default() });
    let mut shell = Terminal::start(&lab.client.ssh(Route::Through, &["-tt"]), 80, 24).unwrap();
    shell.type_in(b"echo be''fore\r").unwrap();
    shell.expect("before", PATIENCE).unwrap();
    let slow = Slow::disk(&lab, 8);
    shell.type_in(b"echo mean''while\r").unwrap();
    let stalled = || {
        let begin = Instant::now();
        let stalled = Scrape::of(port).unwrap().value("casemate_disk_stalled").unwrap();
        assert!(begin.elapsed() < Duration::from_secs(5), "a scrape does not wait for the disk: {:?}", begin.elapsed());
        stalled
    };
    assert!(wait_until(PATIENCE, || stalled() == 1.0), "{}", lab.bastion.log());
    assert_eq!(ask(port, "GET", "/healthz").unwrap().status, 200, "nothing is lost, everything waits");
    assert!(wait_until(PATIENCE, || !told(&file, "disk-stalled").is_empty()), "{}", lab.bastion.log());
    slow.end();
    assert!(wait_until(PATIENCE, || stalled() == 0.0), "{}", lab.bastion.log());
    shell.expect("meanwhile", PATIENCE).unwrap();
    assert!(wait_until(PATIENCE, || !told(&file, "disk-answers").is_empty()), "{}", lab.bastion.log());
    // A commit that took seconds is among the long ones.
    let long = Scrape::of(port).unwrap();
    let count = long.value("casemate_commit_duration_seconds_count").unwrap();
    assert!(count > long.value("casemate_commit_duration_seconds_bucket{le=\"1.0\"}").unwrap());
    shell.type_in(b"exit\r").unwrap();
    shell.wait(PATIENCE).unwrap();
    lab.bastion.stop();
    assert!(
        control_says(&lab.vault(), "alert", &["disk-stalled"])
            && control_says(&lab.vault(), "alert", &["disk-answers"])
    );
}
