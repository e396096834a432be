//! The disk does not answer for a while: everything waits, the people know why, and nothing is lost.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use casemate_tests::client::Route;
use casemate_tests::process::{find_program, rss, wait_until};
use casemate_tests::pty::Terminal;
use casemate_tests::rig::Lab;
use casemate_tests::scale::{MIB, pick};

const PATIENCE: Duration = Duration::from_secs(90);

/// What a person reads meanwhile, and after.
const WAITS: &str = "the disk that records this session does not answer";
const AGAIN: &str = "the disk answers again";

/// `strace` on the daemon as it is: every `fdatasync` takes that much longer.
pub(super) struct Slow {
    strace: Child,
}

impl Slow {
    pub(super) fn disk(lab: &Lab, seconds: u64) -> Self {
        let log = lab.dir.join("strace.log");
        let mut strace = Command::new(find_program("strace").unwrap());
        strace.args(["-f", "-q", "-e", "trace=fdatasync", "-e"]);
        strace.arg(format!("inject=fdatasync:delay_enter={}", seconds * 1_000_000));
        strace.arg("-o").arg(&log).arg("-p").arg(lab.bastion.process.pid.to_string());
        let mut strace = strace.stderr(Stdio::piped()).spawn().unwrap();
        let status = format!("/proc/{}/status", lab.bastion.process.pid);
        let attached = wait_until(Duration::from_secs(10), || {
            let traced = fs::read_to_string(&status).is_ok_and(|text| !text.contains("TracerPid:\t0\n"));
            traced || strace.try_wait().unwrap().is_some()
        });
        if !attached || strace.try_wait().unwrap().is_some() {
            let output = strace.wait_with_output().unwrap();
            panic!("strace does not attach: {}", String::from_utf8_lossy(&output.stderr));
        }
        Self { strace }
    }

    /// Lets the disk answer as ever.
    pub(super) fn end(mut self) {
        // Interrupted, not killed: it lets go of the process in good order.
        let _ = Command::new("kill").arg("-INT").arg(self.strace.id().to_string()).status();
        let _ = self.strace.wait();
    }
}

#[test]
fn a_disk_that_does_not_answer_makes_people_wait_who_are_told_so() {
    let lab = Lab::start().unwrap();
    let mut shell = Terminal::start(&lab.client.ssh(Route::Through, &["-tt"]), 100, 30).unwrap();
    shell.type_in(b"echo be''fore\r").unwrap();
    shell.expect("before", PATIENCE).unwrap();
    let mut upload = lab.client.ssh(Route::Through, &["-T"]);
    upload.arg("--").arg("wc -c").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut upload = upload.spawn().unwrap();
    let mut into = upload.stdin.take().unwrap();
    let bytes = pick(32, 512) * MIB;
    std::thread::sleep(Duration::from_secs(1));
    let before = rss(lab.bastion.process.pid);

    let stall = Duration::from_secs(pick(8, 30));
    let slow = Slow::disk(&lab, stall.as_secs());
    let (start, shown) = (Instant::now(), shell.text().len());
    let sender = std::thread::spawn(move || {
        std::io::copy(&mut std::io::Read::take(std::io::repeat(b'x'), bytes), &mut into).unwrap();
    });
    shell.type_in(b"echo mean''while\r").unwrap();
    shell.expect(WAITS, PATIENCE).unwrap();
    let told = start.elapsed();
    // Promised in 2 s, seen every quarter of one; the rest is for busy machines.
    assert!(told < Duration::from_secs(6), "told after {told:?}");
    let mut most = 0;
    while start.elapsed() < stall.mul_f64(0.8) {
        most = most.max(rss(lab.bastion.process.pid));
        std::thread::sleep(Duration::from_millis(100));
    }
    let text = shell.text();
    let since = text.get(shown..).unwrap_or_default();
    assert!(!since.contains("meanwhile"), "forwarded before the disk had it: {since:?}");
    assert!(!sender.is_finished(), "an upload is held back, not kept in memory");
    slow.end();
    shell.expect("meanwhile", PATIENCE).unwrap();
    shell.expect(AGAIN, PATIENCE).unwrap();
    sender.join().unwrap();
    let done = upload.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&done.stdout).trim(), bytes.to_string(), "nothing is dropped");
    let grown = most.saturating_sub(before) / MIB;
    assert!(grown < 64, "memory grew by {grown} MiB while the disk did not answer");

    shell.type_in(b"exit\r").unwrap();
    assert!(shell.wait(PATIENCE).unwrap().success(), "{:?}", shell.text());
    let vault = lab.vault();
    vault.settle(2, PATIENCE).unwrap();
    let transcripts = vault.transcripts().unwrap();
    let (_, typed) = transcripts.iter().find(|(_, transcript)| !transcript.says("ssh.exec", "wc")).unwrap();
    assert!(typed.says("shown", WAITS) && typed.says("shown", AGAIN), "{:?}", typed.events);
    let (_, sent) = transcripts.iter().find(|(_, transcript)| transcript.says("ssh.exec", "wc")).unwrap();
    assert_eq!(sent.bytes("ssh.in").len() as u64, bytes);
    lab.bastion.stop();
    vault.verify(&[]).unwrap().clean_but_for_trust().unwrap();
    assert!(lab.bastion.log().contains("the disk does not answer"), "{}", lab.bastion.log());
    #[allow(clippy::print_stdout)] // What was measured.
    {
        println!("a stall of {stall:?}: told after {told:?}; memory grew by {grown} MiB");
    }
}
