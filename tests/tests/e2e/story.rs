//! What a newcomer runs first: the demo and the rig, as the Makefile starts them.

use std::collections::HashMap;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use casemate_tests::bins;
use casemate_tests::client::greets;
use casemate_tests::process::{nothing, run, stat};

#[test]
fn the_demo_ends_well_within_a_minute() {
    let start = Instant::now();
    let demo = bins::path("casemate-rig").unwrap();
    let done = run(Command::new(demo).arg("demo"), nothing(), Duration::from_secs(120)).unwrap();
    assert_eq!(done.code(), 0, "{}\n{}", done.out(), done.err());
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());

    // It ends with its sessions in a bucket, which everybody with a key has tried to rid of one.
    let out = done.out();
    assert!(!out.contains("Left out"), "{out}");
    let (_, bucket) = out.split_once("\n6. The same recordings in a bucket").unwrap();
    for deed in ["delete the", "delete it", "keep it", "shorten it", "make it GOVERNANCE"] {
        let row = bucket.lines().find(|line| line.trim_start().starts_with(deed)).unwrap();
        assert_eq!(row.matches("403 AccessDenied").count(), 3, "the bastion, its canary, the owner: {row}");
    }
    let verdicts: Vec<&str> =
        bucket.lines().filter_map(|line| line.split_once("(exit ")?.1.split(')').next()).collect();
    assert_eq!(
        verdicts,
        ["0", "1", "0", "3"],
        "locked, written over, as it was, and with a session cut short: {bucket}"
    );
}

#[test]
fn the_rig_prints_lines_that_a_shell_can_use_and_stops_what_it_started() {
    let dir = tempfile::Builder::new().prefix("a rig's ").tempdir().unwrap();
    fs::write(dir.path().join("another file"), "stays").unwrap();
    let rig = bins::path("casemate-rig").unwrap();
    let call =
        |verb: &str| run(Command::new(&rig).arg(verb).arg(dir.path()), nothing(), Duration::from_secs(60)).unwrap();
    let lines = call("start").ok().unwrap().out();
    let script = format!(
        "{lines}
        for name in SSH_HOST SSH_PORT SSH_USER SSH_IDENTITY KNOWN_HOSTS TARGET_SSH_HOST TARGET_SSH_PORT TARGET_SSH_USER \\
            TARGET_SSH_IDENTITY TARGET_PG_PORT BASTION_PID VAULT TRUST REPLAY CASEMATE CONFIG; do eval echo \"$name=\\$$name\"; done
        common=\"-F /dev/null -o BatchMode=yes -o LogLevel=ERROR -o IdentitiesOnly=yes\"
        ssh $common -o UserKnownHostsFile=\"\\\"$KNOWN_HOSTS\\\"\" -i \"$SSH_IDENTITY\" -p $SSH_PORT -l $SSH_USER $SSH_HOST echo through
        ssh $common -o UserKnownHostsFile=\"\\\"$KNOWN_HOSTS\\\"\" -i \"$TARGET_SSH_IDENTITY\" -p $TARGET_SSH_PORT -l $TARGET_SSH_USER $TARGET_SSH_HOST echo straight
        for prefix in PG TARGET_PG; do
            for name in HOST PORT USER PASSWORD DATABASE SSLROOTCERT; do eval \"export PG$name=\\$${{prefix}}_$name\"; done
            PGSSLMODE=verify-full psql -XAtc \"select '$prefix', current_database(), current_setting('is_superuser')\"
        done
        $CASEMATE check --config \"$CONFIG\" >/dev/null && echo checked
        kill -9 $BASTION_PID
        "
    );
    let done = run(Command::new("bash").arg("-c").arg(&script), nothing(), Duration::from_secs(60)).unwrap();
    let out = done.out();
    for word in ["through", "straight", "checked", "PG|orders|on", "TARGET_PG|orders|on"] {
        assert!(out.lines().any(|line| line == word), "{word}: {out} {}", done.err());
    }
    let values: HashMap<&str, &str> = out.lines().filter_map(|line| line.split_once('=')).collect();
    assert_eq!(values["SSH_USER"], "alice+web1");
    for path in ["SSH_IDENTITY", "KNOWN_HOSTS", "TARGET_SSH_IDENTITY", "VAULT", "TRUST", "REPLAY", "CASEMATE", "CONFIG"]
    {
        assert!(values[path].starts_with('/') && fs::exists(values[path]).unwrap(), "{path} is {}", values[path]);
    }

    // `serve` brings the bastion back on the same port, and is then whoever started it's to end.
    let port: u16 = values["SSH_PORT"].parse().unwrap();
    std::thread::sleep(Duration::from_millis(200));
    assert!(!greets(port), "nothing restarts the daemon");
    let log = dir.path().join("second.log");
    let mut serve = Command::new(values["CASEMATE"]);
    let second =
        casemate_tests::process::spawn_daemon(serve.args(["serve", "--config", values["CONFIG"]]), &log).unwrap();
    assert!(
        casemate_tests::process::wait_until(Duration::from_secs(15), || greets(port)),
        "{:?}",
        fs::read_to_string(log)
    );
    call("stop").ok().unwrap();
    assert!(second.alive(), "the rig ends what it started and nothing else");
    second.stop(Duration::from_secs(20));
    let target: u16 = values["TARGET_SSH_PORT"].parse().unwrap();
    assert!(!greets(target), "the target is gone");
    let database: u16 = values["TARGET_PG_PORT"].parse().unwrap();
    assert!(std::net::TcpStream::connect(("127.0.0.1", database)).is_err(), "and the other one");
    let first = stat(values["BASTION_PID"].parse().unwrap());
    assert!(first.is_none_or(|stat| stat.zombie), "{first:?}");
    assert_eq!(fs::read_to_string(dir.path().join("another file")).unwrap(), "stays");
}
