//! The demo: sessions, their proof, a forgery that is found, and a bucket that gives nothing back. A minute at most, told as it
//! happens.

mod bucket;

use std::fs;
use std::io::{Cursor, Write, stdout};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use casemate_tests::client::Route;
use casemate_tests::pg_client::PgRoute;
use casemate_tests::postgres::{self, Version};
use casemate_tests::process::run;
use casemate_tests::pty::Terminal;
use casemate_tests::rig::{Lab, Options, login};
use casemate_tests::vault::{Transcript, Vault};

/// What is typed at the database: something that changes rows, something that fails, and something that holds a secret.
const STATEMENTS: [&str; 3] = [
    "create table account as select 7 as id, 42 as balance;",
    "update account set balance = balance / 0;",
    "alter role postgres password 'tr0ub4dor&3';",
];
const PASSWORD: &str = "tr0ub4dor&3";

/// Tells the story.
pub(crate) fn tell() -> Result<()> {
    let begun = Instant::now();
    say("Casemate is a bastion that records what is done through it, before it is done.")?;
    say("This starts a throwaway server and a bastion before it, on loopback, in a directory of their own.")?;
    let postgres = Version::Packaged.programs().is_ok().then(postgres::Options::default);
    let mut lab = Lab::with(&Options { postgres, ..Options::default() })?;

    title("1. A person works, with stock ssh")?;
    command(&format!("ssh {}@bastion 'uname -s; echo oops >&2; exit 3'", login()))?;
    let done = lab.exec(Route::Through, "uname -s; echo oops >&2; exit 3")?;
    shown(&done.out())?;
    say(&format!("  standard error, apart: {}", done.err().trim_end()))?;
    say(&format!("  exit status: {}", done.code()))?;
    ensure!(done.code() == 3, "the exit status did not come through");

    command(&format!("ssh {}@bastion        # a shell, in a terminal", login()))?;
    let mut terminal = open_shell(&lab)?;
    terminal.type_in(b"PS1='web1$ '; stty -echo\r")?;
    terminal.type_in(b"echo the database is $((40+2)) rows short\r")?;
    terminal.expect("the database is 42 rows short", Duration::from_secs(20))?;
    terminal.type_in(b"exit\r")?;
    terminal.wait(Duration::from_secs(20))?;
    say("  the database is 42 rows short")?;
    if let Some(slip) = terminal.text().lines().find(|line| line.contains("slip")) {
        say("  and at the end the shell shows a slip, a line that the person can keep as proof:")?;
        say(&format!("  {}", slip.trim_end()))?;
    }

    let sessions = 2 + usize::from(ask_database(&lab)?);
    check(&lab.vault(), sessions)?;
    let desk = tempfile::tempdir()?;
    let bucket = bucket::lock_up(&mut lab, desk.path(), sessions)?;
    cut_short(&mut lab, bucket.as_ref(), sessions + 1)?;
    say("")?;
    say(&format!("That was the story, in {} s. Nothing of it is left on this machine.", begun.elapsed().as_secs()))
}

fn open_shell(lab: &Lab) -> Result<Terminal> {
    let mut ssh = lab.client.ssh(Route::Through, &["-tt"]);
    ssh.env("TERM", "xterm");
    Terminal::start(&ssh, 80, 24)
}

/// Works in the database with stock psql; returns whether there is one.
fn ask_database(lab: &Lab) -> Result<bool> {
    title("2. The same person works in a database, with stock psql")?;
    if lab.postgres.is_none() {
        say("  Left out: PostgreSQL is not installed here.")?;
        return Ok(false);
    }
    let access = lab.pg_access(PgRoute::Through)?;
    command("ssh alice@bastion token orders        # the password for what follows")?;
    command(&format!("psql \"host=bastion user={} dbname={}\"", access.user, access.database))?;
    let mut psql = access.program("psql", &lab.dir)?;
    let typed = Cursor::new(format!("{}\n", STATEMENTS.join("\n")));
    let done = run(psql.arg("-Xa"), typed, Duration::from_secs(20))?;
    shown(&done.out())?;
    say(&format!("  standard error, apart: {}", done.err().trim_end()))?;
    Ok(true)
}

/// Shows what the record says of the statements.
fn show_statements(vault: &Vault, transcripts: &[(String, Transcript)]) -> Result<()> {
    let (id, _) = transcripts
        .iter()
        .find(|(_, transcript)| contains(&transcript.bytes("pg.sql"), b"account"))
        .context("the database's session is not in the vault")?;
    command(&format!("casemate-replay show VAULT {id} | grep pg.statement"))?;
    let text = vault.replay("show", &[id])?.ok()?.out();
    let told: Vec<&str> = text.lines().filter(|line| line.contains("pg.statement")).collect();
    shown(&told.join("\n"))?;
    ensure!(told.len() == STATEMENTS.len(), "the record tells {} of {} statements", told.len(), STATEMENTS.len());
    ensure!(text.contains(&"*".repeat(PASSWORD.len())) && !text.contains(PASSWORD), "the password is not in stars");
    say("  What came of each is the database's own word. Of the password the record holds the length.")
}

/// Shows what lies in the vault, what an auditor says of it, and what they say when a bit of it is another.
fn check(vault: &Vault, sessions: usize) -> Result<()> {
    vault.settle(sessions, Duration::from_secs(10))?;

    title("3. What the vault holds")?;
    command("casemate-replay ls VAULT")?;
    shown(&vault.replay("ls", &[])?.ok()?.out())?;
    if sessions > 2 {
        show_statements(vault, &vault.transcripts()?)?;
    }

    title("4. An auditor checks, offline, with public keys only")?;
    command("casemate-replay verify VAULT --trust trust.toml; echo $?")?;
    let verdict = vault.verify(&[])?;
    shown(&vault.replay("verify", &["--trust", &vault.trust.display().to_string()])?.out())?;
    say(&format!(
        "  {}: everything fits together, but the trust file came from the bastion itself (self-asserted),",
        verdict.exit
    ))?;
    say("  so an auditor cannot decide on it. A trust file signed off the bastion makes the difference.")?;
    ensure!(verdict.exit == 4, "verify was to end with 4 and ended with {}: {}", verdict.exit, verdict.summary);

    title("5. Somebody changes one bit")?;
    let copy = tempfile::tempdir()?;
    copy_tree(&vault.dir, copy.path())?;
    let segment = find_segment(copy.path())?;
    let mut bytes = fs::read(&segment)?;
    let at = bytes.len() / 2;
    *bytes.get_mut(at).context("an empty segment")? ^= 1;
    fs::write(&segment, bytes)?;
    let name = segment.file_name().unwrap_or_default().to_string_lossy();
    say(&format!("  one bit of byte {at} of {name} is flipped, in a copy of the vault"))?;
    command("casemate-replay verify COPY --trust trust.toml; echo $?")?;
    let forged = Vault { dir: copy.path().to_owned(), ..vault.clone() };
    let verdict = forged.verify(&[])?;
    shown(&forged.replay("verify", &["--trust", &vault.trust.display().to_string()])?.out())?;
    say(&format!("  {}: the forgery is found", verdict.exit))?;
    ensure!(verdict.exit == 1, "verify was to end with 1 and ended with {}", verdict.exit);
    Ok(())
}

/// Kills the daemon under a session, and shows what is left of that: in the bucket, where there is one.
fn cut_short(lab: &mut Lab, bucket: Option<&Vault>, sessions: usize) -> Result<()> {
    title("7. The daemon is killed in the middle of a session")?;
    let mut terminal = open_shell(lab)?;
    terminal.type_in(b"echo last words: $((6*7))\r")?;
    terminal.expect("last words: 42", Duration::from_secs(20))?;
    command(&format!("kill -9 {}", lab.bastion.process.pid))?;
    lab.bastion.kill_nine();
    let took = lab.rig.bastion.again()?;
    say(&format!(
        "  started again, and accepting after {} ms; what was cut short is recovered and sealed",
        took.as_millis()
    ))?;
    // Where space is short, what lies in the bucket need not lie here any more.
    let vault = bucket.cloned().unwrap_or_else(|| lab.vault());
    vault.settle(sessions, Duration::from_secs(30))?;
    let transcripts = vault.transcripts()?;
    let (cut_short, transcript) = transcripts
        .iter()
        .find(|(_, transcript)| contains(&transcript.bytes("ssh.out"), b"last words: 42"))
        .context("the session that was cut short is not in the vault")?;
    say(&format!(
        "  The session that was cut short holds {} bytes typed and {} bytes shown, to the last one that anybody saw.",
        transcript.bytes("ssh.in").len(),
        transcript.bytes("ssh.out").len()
    ))?;
    let source = bucket.map_or("VAULT", |_| bucket::SOURCE);
    command(&format!("casemate-replay export {source} {cut_short} --format text | tail -3"))?;
    let text = vault.replay("export", &[cut_short, "--format", "text"])?.ok()?.out();
    let tail: Vec<&str> = text.trim_end().lines().rev().take(3).collect();
    for line in tail.iter().rev() {
        say(&format!("  {line}"))?;
    }
    bucket.map_or(Ok(()), |bucket| bucket::explain(bucket, cut_short))
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// Returns the largest segment file.
fn find_segment(dir: &Path) -> Result<PathBuf> {
    let mut largest = None;
    walk(dir, &mut |path| {
        if path.extension().is_some_and(|kind| kind == "seg") {
            let len = path.metadata().map_or(0, |meta| meta.len());
            if largest.as_ref().is_none_or(|(most, _)| len > *most) {
                largest = Some((len, path.to_owned()));
            }
        }
    })?;
    largest.map(|(_, path)| path).context("the vault holds no segment")
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    walk(from, &mut |path| {
        let Ok(relative) = path.strip_prefix(from) else { return };
        let target = to.join(relative);
        if let Some(parent) = target.parent() {
            let _ = fs::create_dir_all(parent);
        }
        // The vault's files are read-only; the copy is ours to spoil.
        if let Ok(bytes) = fs::read(path) {
            let _ = fs::write(target, bytes);
        }
    })
}

fn walk(dir: &Path, found: &mut dyn FnMut(&Path)) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            walk(&path, found)?;
        } else {
            found(&path);
        }
    }
    Ok(())
}

fn say(text: &str) -> Result<()> {
    Ok(writeln!(stdout(), "{text}")?)
}

fn title(text: &str) -> Result<()> {
    say(&format!("\n{text}\n{}", "-".repeat(text.chars().count())))
}

fn command(text: &str) -> Result<()> {
    say(&format!("$ {text}"))
}

fn shown(text: &str) -> Result<()> {
    for line in text.trim_end().lines() {
        say(&format!("  {line}"))?;
    }
    Ok(())
}
