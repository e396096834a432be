//! The same script straight at the target and through the bastion: same bytes on both streams, same exit status.

use std::io::{Cursor, Read};
use std::time::Duration;

use casemate_tests::client::Route;
use casemate_tests::noise::Noise;
use casemate_tests::process::{Done, run};
use casemate_tests::rig::Lab;

use super::session::peer;

/// One scripted session.
struct Script {
    options: &'static [&'static str],
    command: String,
    input: Input,
}

/// What a script gets on its standard input.
enum Input {
    /// Nothing, and the end at once.
    None,
    /// These bytes, and then the end.
    Bytes(Vec<u8>),
    /// Nothing, and no end as long as the command runs.
    Held,
}

fn script(command: &str) -> Script {
    Script { options: &[], command: command.to_owned(), input: Input::None }
}

fn piped(command: &str, input: &[u8]) -> Script {
    Script { input: Input::Bytes(input.to_vec()), ..script(command) }
}

/// In a terminal at the other end. The input is held open: its end would hang up the terminal at some moment or other.
fn terminal(command: &str) -> Script {
    Script { options: &["-tt"], input: Input::Held, ..script(command) }
}

fn scripts() -> Vec<Script> {
    let binary: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let noise = Noise::new(11).chunk(1 << 20);
    let peer = peer();
    let mut all = vec![
        script("true"),
        script("false"),
        script("exit 0"),
        script("exit 77"),
        script("exit 255"),
        script("kill -KILL $$"),
        script("kill -TERM $$"),
        script("nosuchcommand-casemate"),
        script(""),
        script("echo out; echo err >&2"),
        script("printf 'no line feed'"),
        script("printf '\\000\\001\\377\\376'"),
        script("echo one; sleep 0.2; echo two; sleep 0.2; echo three"),
        script("for n in 1 2 3 4 5; do echo out $n; echo err $n >&2; done"),
        script("seq 1 50000"),
        script("seq 1 50000 >&2"),
        script("head -c 3000000 /dev/zero"),
        script("echo \"quotes ' \\\" and \\$dollars `echo ticks`\""),
        script("echo 'Grüße, 世界, \u{1f512}'"),
        script("printf 'caf\\351\\n'"),
        script("echo a; exec >&-; echo b >&2; sleep 0.1; exit 4"),
        script("exec 2>&-; echo only out"),
        script("(sleep 0.3; echo late) & echo early; wait"),
        script("pwd; id -un; umask"),
        script("env | grep -c ^SSH_"),
        script("test -t 0 || echo no terminal; test -t 1 || echo none here"),
        script(&format!("{peer} source 5000000 3")),
        script(&format!("{peer} flood 2000000 0 3")),
        script(&format!("{peer} flood 0 2000000 4")),
        script(&format!("echo {}", "x".repeat(60_000))),
        piped("cat", b"small"),
        piped("cat", b""),
        piped("cat", &binary),
        piped("cat", &noise),
        piped("cat >&2", &noise),
        piped("wc -c", &noise),
        piped("sort", b"c\na\nb\n"),
        piped("head -c 10", &noise),
        piped("sh", b"echo from the shell\nexit 9\n"),
        piped("sh -s one two", b"echo $# $1 $2\n"),
        piped("tee /dev/stderr", &binary),
        piped("dd bs=1 count=100 2>/dev/null", &binary),
        piped("read line; echo got \"$line\"; cat | md5sum", b"first\nrest\n"),
        piped(&format!("{peer} sink"), &noise),
        piped("exit 6", &noise),
        terminal("echo in a terminal"),
        terminal("test -t 0 && test -t 1 && test -t 2 && echo three times"),
        terminal("stty size; stty -a | tail -n +2"),
        terminal("echo $TERM"),
        terminal("exit 33"),
        terminal("kill -TERM $$"),
        terminal("echo out; echo err >&2"),
        terminal("seq 1 20000"),
        terminal("stty raw; printf 'a\\nb\\r\\n\\000\\377'"),
        terminal("printf '\\033[31mred\\033[0m \\033]0;title\\007\\n'"),
    ];
    all.push(Script { options: &["-T"], ..script("echo without") });
    all.push(Script { options: &["-o", "SetEnv=LANG=C LC_ALL=C"], ..script("echo $LANG $LC_ALL") });
    all.push(Script { options: &["-o", "SetEnv=LC_EMPTY="], ..script("echo [${LC_EMPTY-unset}]") });
    all.push(Script { options: &["-o", "RekeyLimit=256K"], ..piped("cat", &noise) });
    all.push(Script { options: &["-s"], ..script("nosuchsubsystem") });
    all
}

fn play(lab: &Lab, route: Route, script: &Script) -> Done {
    let mut ssh = lab.client.ssh(route, script.options);
    ssh.env("TERM", "xterm-256color");
    // An empty command asks for a shell, as it does for a person.
    if !script.command.is_empty() {
        ssh.arg("--").arg(&script.command);
    }
    let input: Box<dyn Read + Send> = match &script.input {
        Input::None => Box::new(std::io::empty()),
        Input::Bytes(bytes) => Box::new(Cursor::new(bytes.clone())),
        Input::Held => Box::new(Held),
    };
    run(&mut ssh, input, Duration::from_secs(60)).unwrap()
}

struct Held;

impl Read for Held {
    fn read(&mut self, _buffer: &mut [u8]) -> std::io::Result<usize> {
        // Longer than any script may run; the thread ends with the test.
        std::thread::sleep(Duration::from_secs(600));
        Ok(0)
    }
}

#[test]
fn a_script_cannot_tell_the_bastion_from_the_target() {
    let lab = Lab::start().unwrap();
    let scripts = scripts();
    assert!(scripts.len() >= 40);
    let mut different = Vec::new();
    for script in &scripts {
        let straight = play(&lab, Route::Straight, script);
        let through = play(&lab, Route::Through, script);
        let name: String = script.command.chars().take(60).collect();
        for (what, a, b) in [
            ("standard output", &straight.stdout, &through.stdout),
            ("standard error", &straight.stderr, &through.stderr),
        ] {
            if a != b {
                let show = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
                different.push(format!(
                    "{name}: {what}: {} bytes {:?} against {} bytes {:?}",
                    a.len(),
                    show(a),
                    b.len(),
                    show(b)
                ));
            }
        }
        if straight.code() != through.code() {
            different.push(format!("{name}: exit {} against {}", straight.code(), through.code()));
        }
    }
    // Zero in n tries bounds the rate below 3/n with 95 % confidence.
    eprintln!("{} of {} scripts differ", different.len(), scripts.len());
    assert!(different.is_empty(), "{}", different.join("\n"));
}
