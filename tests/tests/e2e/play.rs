//! What `play` shows is what was shown then, and nothing that was recorded acts on the terminal of whoever looks.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use casemate_screen::paint::first_forbidden;
use casemate_tests::client::Route;
use casemate_tests::process::{find_program, nothing, run, wait_until};
use casemate_tests::pty::Terminal;
use casemate_tests::rig::Lab;
use casemate_tests::vault::Vault;

const PATIENCE: Duration = Duration::from_secs(30);

/// Colours, wide characters, an alternate screen that is left and one that is not, a scroll region, and questions and
/// orders to the terminal of whoever looks: where the cursor is, what it is called, what lies in its clipboard.
const TRICKS: &str = r"printf '\033]0;title\007\033]52;c;cm0gLXJm\007\033[6n\033[c\033P$qm\033\\\033[>c\033[21t';
    printf 'plain \033[1;31mred\033[0m \033[48;5;200mpink\033[0m 中文 wide\r\n';
    printf '\033[?1049h\033[2J\033[5;10Hgone\033[?1049l';
    for n in 1 2 3 4 5 6 7 8 9; do printf 'line %s\r\n' $n; done;
    printf '\033[3;6r\033[6;1Hscrolled\r\n\r\nin a region\033[r';
    printf '\033[?1049h\033[2J\033[20;30H\033[7mthe last screen\033[0m\033[2;2H\033[4munder\033[0m\033[24;70Hcorner'; sleep 0.2";

/// Other people's terminal: a real one, so that what we write is judged by a program that is not ours.
struct Tmux {
    program: std::path::PathBuf,
    dir: tempfile::TempDir,
}

impl Tmux {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("conf"), "set -g status off\nset -g remain-on-exit on\n").unwrap();
        Self { program: find_program("tmux").unwrap(), dir }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env("LC_ALL", "C.UTF-8").env("TERM", "xterm-256color").env_remove("TMUX").arg("-u");
        command.arg("-f").arg(self.dir.path().join("conf")).arg("-S").arg(self.dir.path().join("socket"));
        command
    }

    /// Runs a shell command in a terminal of that size until it ends, and returns the lines on its screen.
    fn shows(cols: u16, rows: u16, command: &str) -> Vec<String> {
        Self::new().run(cols, rows, command)
    }

    fn run(&self, cols: u16, rows: u16, command: &str) -> Vec<String> {
        let done = self.dir.path().join("done");
        let script = format!("{command}; touch '{}'; exec sleep 600", done.display());
        let mut start = self.command();
        start.args(["new-session", "-d", "-x", &cols.to_string(), "-y", &rows.to_string(), "sh", "-c", &script]);
        run(&mut start, nothing(), PATIENCE).unwrap().ok().unwrap();
        assert!(wait_until(PATIENCE, || done.exists()), "{command} does not end");
        std::thread::sleep(Duration::from_millis(300));
        let shown = run(self.command().args(["capture-pane", "-p"]), nothing(), PATIENCE).unwrap().ok().unwrap();
        shown.out().lines().map(str::to_owned).collect()
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        // Only this socket's server.
        let _ = run(self.command().arg("kill-server"), nothing(), PATIENCE);
    }
}

/// Records a session in a terminal of that size and returns its id.
fn record(lab: &Lab, cols: u16, rows: u16, command: &str) -> String {
    let mut ssh = lab.client.ssh(Route::Through, &["-tt"]);
    ssh.env("TERM", "xterm-256color").arg("--").arg(command);
    let mut terminal = Terminal::start(&ssh, cols, rows).unwrap();
    terminal.wait(PATIENCE).unwrap();
    let vault = lab.vault();
    vault.settle(1, PATIENCE).unwrap();
    session(&vault)
}

/// Returns the id of the newest session.
fn session(vault: &Vault) -> String {
    let sessions = vault.of_kind("session").unwrap();
    sessions.last().expect("a session")["session"].as_str().unwrap().to_owned()
}

fn shell_words(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| format!("'{}'", word.to_str().unwrap())).collect::<Vec<_>>().join(" ")
}

fn play(vault: &Vault, session: &str, args: &[&str]) -> Command {
    vault.command("play", &[&[session], args].concat()).unwrap()
}

#[test]
fn another_terminal_shows_the_same_as_then() {
    let lab = Lab::start().unwrap();
    let (vault, session) = (lab.vault(), record(&lab, 90, 28, TRICKS));
    let recorded = lab.dir.join("recorded");
    fs::write(&recorded, vault.transcript(&session).unwrap().bytes("ssh.out")).unwrap();
    // A terminal answers what is asked of it; here nobody may see that.
    let then = Tmux::shows(90, 28, &format!("stty -echo; cat '{}'", recorded.display()));
    assert!(then.iter().any(|line| line.contains("the last screen")), "{then:?}");
    // A row more for the status, and one where the shell goes on.
    let now = Tmux::shows(90, 30, &shell_words(&play(&vault, &session, &["--speed", "50"])));
    let text = |lines: &[String]| lines.iter().map(|line| line.trim_end().to_owned()).take(28).collect::<Vec<_>>();
    assert_eq!(text(&now), text(&then));
}

#[test]
fn nothing_that_was_recorded_acts_on_the_terminal() {
    let lab = Lab::start().unwrap();
    let (vault, session) = (lab.vault(), record(&lab, 90, 28, TRICKS));
    let start = Instant::now();
    let mut piped = play(&vault, &session, &["--speed", "100"]);
    let piped = run(&mut piped, nothing(), PATIENCE).unwrap().ok().unwrap();
    assert!(start.elapsed() < Duration::from_secs(20), "a hundred times the speed took {:?}", start.elapsed());
    assert_eq!(first_forbidden(&piped.out()), None);
    assert!(piped.out().contains("the last screen") && !piped.out().contains("title"), "{}", piped.out());

    // On a terminal, too; one smaller than the recorded one, whose size changes meanwhile.
    let mut terminal = Terminal::start(&play(&vault, &session, &[]), 40, 12).unwrap();
    terminal.resize(60, 20).unwrap();
    terminal.wait(PATIENCE).unwrap();
    assert_eq!(first_forbidden(&terminal.text()), None);
    assert!(terminal.text().contains("corner"), "the part around the cursor: {:?}", terminal.text());
}

#[test]
fn keys_pause_leap_and_quit() {
    let lab = Lab::start().unwrap();
    let (vault, session) = (lab.vault(), record(&lab, 60, 10, "echo ear''ly; sleep 2; echo la''te; sleep 1"));
    let mut terminal = Terminal::start(&play(&vault, &session, &["--speed", "0.1"]), 80, 24).unwrap();
    terminal.expect("early", PATIENCE).unwrap();
    terminal.type_in(b" ").unwrap();
    terminal.expect("paused x0.1", PATIENCE).unwrap();
    terminal.type_in(b".").unwrap();
    terminal.expect("late", PATIENCE).unwrap();
    terminal.type_in(b"\x1b[D+").unwrap();
    terminal.expect("0:00:00", PATIENCE).unwrap();
    terminal.expect("x0.2", PATIENCE).unwrap();
    terminal.type_in(b"q").unwrap();
    assert!(terminal.wait(PATIENCE).unwrap().success());
    assert_eq!(first_forbidden(&terminal.text()), None);

    // Idle times are cut, and a moment can be gone to; both would take 10 s and more at that speed.
    for args in [["--idle-limit", "0.02"], ["--goto", "end"]] {
        let start = Instant::now();
        let done = run(&mut play(&vault, &session, &[&args[..], &["--speed", "0.2"]].concat()), nothing(), PATIENCE);
        let done = done.unwrap().ok().unwrap();
        assert!(done.out().contains("early") && done.out().contains("late"), "{args:?}: {}", done.out());
        assert!(start.elapsed() < Duration::from_secs(8), "{args:?} took {:?}", start.elapsed());
    }
}

#[test]
fn a_live_session_can_be_followed_from_the_spool() {
    let lab = Lab::start().unwrap();
    let mut ssh = lab.client.ssh(Route::Through, &["-tt"]);
    // Enough at once for a block of its own, then little: what is small waits in the journal for at most 10 s.
    ssh.arg("--").arg("echo begun; seq 1 30000; n=0; while sleep 0.5; do n=$((n+1)); echo tick $n; done");
    let mut live = Terminal::start(&ssh, 80, 24).unwrap();
    live.expect("tick 3", PATIENCE).unwrap();
    let vault = lab.vault();
    let session = session(&vault);

    // Without the spool there is nothing yet, and it says what to do.
    let done = run(&mut play(&vault, &session, &[]), nothing(), PATIENCE).unwrap();
    assert!(done.code() == 2 && done.err().contains("--spool"), "{}: {}", done.code(), done.err());

    let spool = lab.bastion.dir.join("state/spool");
    let follow = play(&vault, &session, &["--follow", "--spool", spool.to_str().unwrap()]);
    let mut follower = Terminal::start(&follow, 80, 26).unwrap();
    follower.expect("tick", PATIENCE).unwrap();
    follower.expect("live", PATIENCE).unwrap();
    let newest = |text: &str| text.rmatches("tick ").count();
    let before = newest(&follower.text());
    assert!(wait_until(PATIENCE, || newest(&follower.text()) > before + 3), "{:?}", follower.text());
    live.type_in(b"\x03").unwrap();
    live.wait(PATIENCE).unwrap();
    assert!(follower.wait(PATIENCE).unwrap().success(), "the end of the session ends the follower");
    assert_eq!(first_forbidden(&follower.text()), None);
}
