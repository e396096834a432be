//! Every mistake gets its line and its remedy, and none of them panics.

use std::os::unix::fs::symlink;

use super::*;
use casemate_recorder::Proven;
use casemate_recorder::transcript::wrap::Identity;
use casemate_recorder::vault::s3::{Checksum, LockMode, ServerSideEncryption, Settings};

use crate::testing::{ALICE, BOB, Home, SAMPLE, WEB1, chmod};

/// An RSA public key line with a modulus of that many bits; nobody ever checks its factors here.
fn rsa(bits: usize) -> String {
    use base64::Engine as _;
    let mut modulus = vec![0u8];
    modulus.resize(1 + bits / 8, 0xff);
    let mut blob = Vec::new();
    for part in [b"ssh-rsa".as_slice(), &[1, 0, 1], &modulus] {
        blob.extend_from_slice(&u32::try_from(part.len()).unwrap().to_be_bytes());
        blob.extend_from_slice(part);
    }
    format!("ssh-rsa {} old", base64::engine::general_purpose::STANDARD.encode(blob))
}

fn problems(home: &Home, text: &str) -> Vec<Problem> {
    match home.load(text) {
        Ok(_) => Vec::new(),
        Err(ConfigError::Invalid { problems, .. }) => {
            assert!(!problems.is_empty(), "refused without a reason: {text}");
            problems
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn the_sample_is_read_whole() {
    let home = Home::new();
    let config = home.load(SAMPLE).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(config.node, "bastion-1");
    assert_eq!(config.state_dir, home.path("state"));
    assert_eq!(
        config.vault,
        VaultConfig {
            dir: home.path("vault"),
            immutable: false,
            catalogue: true,
            retain: Duration::from_secs(400 * 86_400),
            s3: Vec::new(),
            proven: Proven::All
        }
    );
    assert_eq!((config.durability, config.encryption), (Durability::Causal, Encryption::None));
    assert_eq!(config.listen.ssh, ["127.0.0.1:2222".parse().unwrap()]);
    assert_eq!(config.notice, "Recorded.\r\n");
    assert_eq!(config.persons.iter().map(|person| person.name.as_str()).collect::<Vec<_>>(), ["alice", "bob"]);
    assert_eq!(config.persons[0].duties, [Duty::Admin]);
    assert_eq!(config.targets[1].address(), "[2001:db8::7]:2022");
    assert_eq!(config.targets[0].roles.len(), 2);
    // An access line may use an alias; it is kept under the name.
    assert_eq!(config.access[0].targets, ["web1", "web2"]);
    let text = std::fs::read(home.path("casemate.toml")).unwrap();
    assert_eq!(config.hash, *blake3::hash(&text).as_bytes());
    assert!(
        config.limits.env_passes("LC_ALL") && config.limits.env_passes("LANG") && !config.limits.env_passes("LANGUAGE")
    );
    assert!(!config.limits.env_passes("LD_PRELOAD"));
}

#[test]
fn what_is_left_out_has_its_default_and_lets_nobody_in() {
    let home = Home::new();
    let (head, _) = SAMPLE.split_once("[limits]").unwrap();
    let text = head.replace("durability = \"causal\"\n", "").replace("notice = \"Recorded.\"\n", "");
    let config = home.load(&text).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.durability, Durability::Causal);
    assert!(config.notice.contains("recorded"));
    assert!(config.persons.is_empty() && config.targets.is_empty() && config.access.is_empty());
}

/// What is replaced in the sample, by what, and the line and words of a complaint that must be among the answers.
struct Bad(&'static str, &'static str, usize, &'static [&'static str]);

#[test]
fn every_bad_value_is_refused_with_its_line_and_remedy() {
    let home = Home::new();
    let cases = [
        // Syntax and shape.
        Bad("node = \"bastion-1\"", "node = bastion-1", 1, &["not TOML", "correct the syntax"]),
        Bad("[limits]", "[limits", 17, &["not TOML"]),
        Bad("[limits]", "[vault]", 17, &["not TOML"]),
        Bad("attempts = 6", "attempts = 6\nattempts = 7", 20, &["not TOML"]),
        Bad("node = ", "nodes = ", 1, &["unknown field \"nodes\"", "did you mean node?"]),
        Bad("attempts = 6", "attempt = 6", 19, &["unknown field limits.\"attempt\"", "did you mean attempts?"]),
        Bad("duties = [\"admin\"]", "admin = true", 26, &["unknown field person.\"admin\"", "known here: name, keys"]),
        Bad("reason = \"on call\"", "grant = 7", 62, &["unknown field access.\"grant\"", "remove it"]),
        Bad(
            "[[target.role]]\nlogin = \"root\"",
            "[[target.roles]]\nlogin = \"root\"",
            40,
            &["unknown field target.\"roles\"", "did you mean role?"],
        ),
        Bad("[listen]\n", "[[listen]]\n", 9, &["listen has the wrong type", "[listen]"]),
        Bad("[[person]]\nname = \"bob\"", "[person]\nname = \"bob\"", 28, &["not TOML"]),
        // Missing.
        Bad("node = \"bastion-1\"\n", "", 1, &["node is missing", "name this node"]),
        Bad("state_dir = \"state\"\n", "", 1, &["state_dir is missing", "name a directory"]),
        Bad("node_key = \"keys/node.key\"\n", "", 1, &["node_key is missing", "casemate init"]),
        Bad("encryption = \"none\"\n", "", 1, &["encryption is missing", "write encryption = \"age\""]),
        Bad("host_keys = [\"keys/host\"]\n", "", 1, &["host_keys is missing", "write host_keys"]),
        Bad("[listen]\nssh = [\"127.0.0.1:2222\"]\n", "", 1, &["listen is missing", "write [listen]"]),
        Bad("ssh = [\"127.0.0.1:2222\"]", "ssh = []", 9, &["listen.ssh is missing", "write ssh ="]),
        Bad("dir = \"vault\"\n", "", 12, &["vault.dir is missing", "name a directory"]),
        Bad("name = \"alice\"\n", "", 23, &["person.name is missing", "name the person"]),
        Bad("keys = [\"@ALICE\"]", "keys = []", 23, &["person.keys is missing", ".pub"]),
        Bad(
            "host_keys = [\"@WEB1\"]\n\n[[target.role]]\nlogin = \"root\"",
            "[[target.role]]\nlogin = \"root\"",
            33,
            &["target.host_keys is missing", "casemate target add"],
        ),
        Bad("login = \"root\"\n", "", 40, &["target.role.login is missing", "login name"]),
        Bad("person = \"bob\"\n", "", 64, &["access.person is missing", "name a person"]),
        Bad("targets = [\"web1\"]\n", "", 64, &["access.targets is missing", "name targets"]),
        Bad("roles = [\"deploy\"]\n", "", 64, &["access.roles is missing", "name logins"]),
        // Types and bounds.
        Bad("node = \"bastion-1\"", "node = 1", 1, &["node has the wrong type", "text in quotes"]),
        Bad("immutable = false", "immutable = \"no\"", 14, &["vault.immutable has the wrong type", "true or false"]),
        Bad(
            "durability = \"causal\"",
            "durability = \"fast\"",
            4,
            &["durability \"fast\" is not known", "\"strict\", \"causal\" or \"process\""],
        ),
        Bad("encryption = \"none\"", "encryption = \"off\"", 5, &["encryption \"off\"", "write encryption = \"age\""]),
        Bad("immutable = false", "catalogue = \"no\"", 14, &["vault.catalogue has the wrong type", "true or false"]),
        Bad("retain = \"400d\"", "retain = \"0d\"", 15, &["vault.retain is not a duration from 1d", "such as \"20s\""]),
        Bad("retain = \"400d\"", "retain = 400", 15, &["vault.retain has the wrong type"]),
        Bad("login_grace = \"20s\"", "login_grace = \"0s\"", 18, &["limits.login_grace is not a duration"]),
        Bad("attempts = 6", "attempts = 0", 19, &["limits.attempts is out of bounds", "from 1 to 100"]),
        Bad("attempts = 6", "attempts = -1", 19, &["limits.attempts is out of bounds"]),
        Bad("attempts = 6", "attempts = 99999999999999999999", 19, &["attempts"]),
        Bad("backlog = \"4MiB\"", "backlog = \"4MB\"", 20, &["limits.backlog is not a size", "such as \"4MiB\""]),
        Bad("backlog = \"4MiB\"", "backlog = \"256MiB\"", 17, &["backlog_max is below", "several times"]),
        Bad("\"LC_*\"", "\"LC_*_X\"", 21, &["limits.env has no name", "* at most at the end"]),
        Bad("\"LC_*\"", "\"*\"", 21, &["limits.env has no name"]),
        Bad("\"127.0.0.1:2222\"", "\"localhost\"", 10, &["no address and port", "ADDRESS:PORT"]),
        Bad("\"127.0.0.1:2222\"", "\"127.0.0.1:2222\", \"127.0.0.1:2222\"", 10, &["twice"]),
        Bad("\"127.0.0.1:2222\"", "\"127.0.0.1:70000\"", 10, &["no address and port"]),
        Bad("notice = \"Recorded.\"", "notice = \"\"", 6, &["notice is empty", "plain lines"]),
        Bad("notice = \"Recorded.\"", "notice = \"\\u001b[2J\"", 6, &["control characters"]),
        Bad(
            "reason = \"on call\"",
            "content = \"none\"",
            62,
            &["content \"none\" is not known", "write \"full\", or \"hash\" to keep file content out"],
        ),
        Bad("reason = \"on call\"", "content = 1", 62, &["content"]),
        Bad("reason = \"on call\"", "forward = 80", 62, &["forward"]),
        Bad(
            "reason = \"on call\"",
            "forward = [\"localhost\"]",
            62,
            &["forward \"localhost\" has no port", "write HOST:PORT or unix:/PATH"],
        ),
        Bad(
            "reason = \"on call\"",
            "forward = [\"db:1\",\n\"DB:1\"]",
            63,
            &["forward \"DB:1\" is listed twice", "* stands for any host or port"],
        ),
        Bad("reason = \"on call\"", "reason = \"on\\ncall\"", 62, &["reason is over", "one plain line"]),
        // Names.
        Bad("node = \"bastion-1\"", "node = \"Bastion\"", 1, &["node is no name: \"Bastion\"", "a lower-case letter"]),
        Bad("name = \"alice\"", "name = \"alice+root\"", 24, &["person.name is no name"]),
        Bad("name = \"alice\"", "name = \"$(id)\"", 24, &["person.name is no name"]),
        Bad("aliases = [\"www\"]", "aliases = [\"10.0.0.7\"]", 35, &["target.aliases is no name"]),
        Bad("login = \"root\"", "login = \"-oProxyCommand\"", 41, &["target.role.login is no name"]),
        Bad("name = \"bob\"", "name = \"alice\"", 28, &["person \"alice\" is already on line 23", "join the two"]),
        Bad("name = \"web2\"", "name = \"web1\"", 48, &["\"web1\" is already taken on line 33", "unique"]),
        Bad("name = \"web2\"", "name = \"www\"", 48, &["\"www\" is already taken"]),
        Bad("aliases = [\"www\"]", "aliases = [\"www\", \"www\"]", 33, &["\"www\" is already taken"]),
        Bad("aliases = [\"www\"]", "aliases = [\"web1\"]", 33, &["\"web1\" is already taken"]),
        Bad("login = \"root\"", "login = \"deploy\"", 44, &["role \"deploy\" is listed twice"]),
        // Persons and their keys.
        Bad(
            "duties = [\"auditor\"]",
            "duties = [\"root\"]",
            31,
            &["duty \"root\" is not known", "admin, auditor, approver, reviewer"],
        ),
        Bad("duties = [\"auditor\"]", "duties = [\"auditor\", \"auditor\"]", 31, &["listed twice"]),
        Bad("\"@ALICE\"", "\"\"", 25, &["person.keys: not a public key", ".pub"]),
        Bad("\"@ALICE\"", "\"AAAAC3\"", 25, &["person.keys: not a public key"]),
        Bad("\"@ALICE\"", "\"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5\"", 25, &["person.keys: not a public key"]),
        Bad("\"@ALICE\"", "\"no-pty @ALICE\"", 25, &["person.keys: not a public key", "without options"]),
        Bad(
            "\"@ALICE\"",
            "\"ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIGnCJJgOcfJKIM1qo+iXRDYRgyzLOagjUaz8S6nF9vNK\"",
            25,
            &["not a public key"],
        ),
        Bad("\"@ALICE\"", "\"ssh-dss AAAAB3NzaC1kc3MAAACB\"", 25, &["DSA keys are refused", "ssh-keygen -t ed25519"]),
        Bad(
            "\"@ALICE\"",
            "\"ssh-ed25519-cert-v01@openssh.com AAAA\"",
            25,
            &["a certificate is no key", "plain public key"],
        ),
        Bad("\"@ALICE\"", "\"-----BEGIN OPENSSH PRIVATE KEY-----\"", 25, &["this is a private key", "public half"]),
        Bad("\"@ALICE\"", "\"@ALICE\", \"@ALICE\"", 25, &["key twice"]),
        Bad("\"@BOB\"", "\"@ALICE\"", 28, &["\"alice\" and \"bob\" share the key SHA256:", "of their own"]),
        // Targets.
        Bad(
            "kind = \"ssh\"\naddress = \"192",
            "kind = \"telnet\"\naddress = \"192",
            36,
            &["kind \"telnet\" is not known", "write kind = \"ssh\""],
        ),
        Bad("192.0.2.7:22", "192.0.2.7", 37, &["no host and port", "HOST:PORT"]),
        Bad("192.0.2.7:22", "192.0.2.7:0", 37, &["no host and port"]),
        Bad("192.0.2.7:22", "web1 :22", 37, &["no host and port"]),
        Bad("192.0.2.7:22", "-web1:22", 37, &["no host and port"]),
        Bad("[2001:db8::7]:2022", "2001:db8::7:2022", 51, &["no host and port", "brackets"]),
        Bad("[2001:db8::7]:2022", "[fe80::1%eth0]:22", 51, &["no host and port"]),
        // Access.
        Bad("person = \"bob\"", "person = \"carol\"", 65, &["unknown person \"carol\"", "add a [[person]]"]),
        Bad("targets = [\"web1\"]", "targets = [\"web3\"]", 66, &["unknown target \"web3\"", "add a [[target]]"]),
        Bad(
            "roles = [\"deploy\"]",
            "roles = [\"nobody\"]",
            67,
            &["\"nobody\" that none of its targets has", "add a [[target.role]]"],
        ),
        // Files and directories.
        Bad("keys/ca\"", "keys/host\"", 7, &["the host key is also host_ca", "make another one"]),
        Bad("keys/ca\"", "keys/target\"", 33, &["is also host_ca", "make another one"]),
        Bad("keys/ca\"", "keys/none\"", 8, &["cannot open", "check the path"]),
        Bad("host_ca = \"keys/ca\"", "", 1, &["host_ca is missing", "casemate init"]),
        Bad("keys/host\"", "keys/none\"", 7, &["cannot open", "check the path"]),
        Bad("keys/host\"", "\"", 7, &["not a path"]),
        Bad("keys/host\"", "keys/node.key\"", 7, &["no private SSH key", "ssh-keygen"]),
        Bad("keys/host\"", "keys/target\"", 33, &["also a host key", "make another one"]),
        Bad("keys/host\"]", "keys/host\", \"keys/target\"]", 7, &["two keys of type", "one key of each"]),
        Bad("keys/node.key", "keys/host", 3, &["is no node key", "casemate init"]),
        Bad("node = \"bastion-1\"", "node = \"bastion-2\"", 3, &["belongs to \"bastion-1\"", "key of this node"]),
        Bad("keys/target", "keys", 42, &["no regular file", "name the key file"]),
        Bad("state_dir = \"state\"", "state_dir = \"none\"", 2, &["cannot use", "mkdir -m 700"]),
        Bad("state_dir = \"state\"", "state_dir = \"keys/host\"", 2, &["is no directory"]),
        Bad("dir = \"vault\"", "dir = \"state\"", 13, &["lie in one another", "side by side"]),
        Bad("dir = \"vault\"", "dir = \".\"", 13, &["lie in one another"]),
    ];
    assert!(cases.len() >= 40);
    let mut missed = Vec::new();
    for Bad(from, to, line, words) in &cases {
        assert!(SAMPLE.contains(from), "the sample has no {from:?}");
        let found = problems(&home, &SAMPLE.replacen(from, to, 1));
        let fits = |problem: &Problem| {
            let text = problem.to_string();
            problem.line == *line && !problem.remedy.is_empty() && words.iter().all(|word| text.contains(word))
        };
        if !found.iter().any(fits) {
            missed.push(format!("{to:?} must give line {line} and {words:?}, gave {found:#?}"));
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

#[test]
fn all_problems_are_told_at_once() {
    let home = Home::new();
    let text = SAMPLE
        .replace("node = \"bastion-1\"", "node = 1")
        .replace("encryption = \"none\"\n", "")
        .replace("duties = [\"admin\"]", "duties = [\"root\"]")
        .replace("person = \"bob\"", "person = \"carol\"");
    let error = home.load(&text).err().unwrap().to_string();
    for words in ["node has the wrong type", "encryption is missing", "duty \"root\"", "unknown person \"carol\""] {
        assert!(error.contains(words), "{words}: {error}");
    }
    let file = home.path("casemate.toml");
    for line in error.lines() {
        let rest = line.strip_prefix(&format!("{}:", file.display())).unwrap_or_else(|| panic!("{line}"));
        let (number, _) = rest.split_once(": ").unwrap();
        assert!(number.parse::<usize>().is_ok() && rest.contains("; "), "{line}");
    }
}

#[test]
fn rsa_keys_have_bounds() {
    let home = Home::new();
    for (bits, fine) in [(1024, false), (2040, false), (2048, true), (4096, true), (8192, true), (8200, false)] {
        let found = problems(&home, &SAMPLE.replace("@ALICE", &rsa(bits)));
        let refused = found.iter().any(|problem| problem.what.contains(&format!("RSA key of {bits} bits")));
        assert_eq!((found.is_empty(), refused), (fine, !fine), "{bits}: {found:?}");
    }
}

#[test]
fn a_key_file_that_others_can_use_is_refused_with_the_command() {
    let home = Home::new();
    let cases: [(&str, u32, &str); 7] = [
        ("keys/host", 0o644, "run: chmod 600 "),
        ("keys/node.key", 0o640, "run: chmod 600 "),
        ("keys/target", 0o604, "run: chmod 600 "),
        ("keys", 0o770, "run: chmod go-w "),
        ("state", 0o755, "run: chmod 700 "),
        ("vault", 0o755, "run: chmod 750 "),
        ("vault", 0o770, "run: chmod 750 "),
    ];
    for (name, mode, words) in cases {
        let path = home.path(name);
        let before = std::fs::metadata(&path).unwrap().permissions();
        chmod(&path, mode);
        let found = problems(&home, SAMPLE);
        let command = format!("{words}{}", path.display());
        assert!(found.iter().any(|problem| problem.remedy == command), "{name} {mode:o}: {found:#?}");
        std::fs::set_permissions(&path, before).unwrap();
    }
    assert!(problems(&home, SAMPLE).is_empty());
}

#[test]
fn a_linked_key_file_is_refused() {
    let home = Home::new();
    symlink(home.path("keys/host"), home.path("keys/link")).unwrap();
    let found = problems(&home, &SAMPLE.replace("keys/host\"", "keys/link\""));
    assert!(found.iter().any(|problem| problem.line == 7 && problem.what.contains("symbolic link")), "{found:#?}");
}

#[test]
fn any_cut_and_any_flipped_byte_ends_in_an_answer() {
    let home = Home::new();
    let text = SAMPLE.replace("@ALICE", ALICE).replace("@BOB", BOB).replace("@WEB1", WEB1);
    let file = home.path("casemate.toml");
    for at in (0..text.len()).step_by(7) {
        std::fs::write(&file, &text.as_bytes()[..at]).unwrap();
        let _ = Config::load(&file);
        let mut bytes = text.clone().into_bytes();
        bytes[at] = bytes[at].wrapping_add(u8::try_from(at % 255).unwrap() + 1);
        std::fs::write(&file, bytes).unwrap();
        let _ = Config::load(&file);
    }
}

#[test]
fn what_is_no_text_file_is_an_error() {
    let home = Home::new();
    let file = home.path("casemate.toml");
    std::fs::write(&file, b"node = \"\xff\"").unwrap();
    assert!(Config::load(&file).err().unwrap().to_string().ends_with(":1: not UTF-8; save it as UTF-8 text"));
    assert!(matches!(Config::load(&home.path("nowhere")), Err(ConfigError::Read { .. })));
    assert!(matches!(Config::load(&home.path("keys")), Err(ConfigError::Read { .. })));
}

#[test]
fn the_snapshot_fits_its_events_and_holds_no_key() {
    use casemate_recorder::transcript::event::{EVENT_LEN_MAX, Value, config as field, encode};
    let home = Home::new();
    let aliases: Vec<String> = (0..900).map(|n| format!("\"{}{n:04}\"", "a".repeat(60))).collect();
    let text = SAMPLE.replace("[\"www\"]", &format!("[{}]", aliases.join(","))).replace("\"www\", ", "\"web1\", ");
    let lines = "\n[[access]]\nperson = \"bob\"\ntargets = [\"web1\"]\nroles = [\"deploy\"]\n".repeat(4_000);
    let config = home.load(&(text + &lines)).unwrap_or_else(|error| panic!("{error}"));
    let events = config.events("start");
    let mut access = 0;
    for event in &events {
        let mut bytes = Vec::new();
        encode(&mut bytes, u64::MAX, u64::MAX, event);
        assert!(bytes.len() < EVENT_LEN_MAX);
        assert_eq!(event.get(field::HASH), Some(&Value::Bytes(config.hash.to_vec().into())));
        if let Some(Value::List(lines)) = event.get(field::ACCESS) {
            access += lines.len();
        }
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains("PRIVATE") && !text.contains("AAAAC3"), "{text}");
    }
    assert_eq!(access, config.access.len());
    assert_eq!(events[0].get(field::CAUSE), Some(&Value::Text("start".to_owned())));
}

#[test]
fn what_is_recorded_of_file_content_is_said_with_the_access_and_in_the_snapshot() {
    use casemate_recorder::transcript::event::{Value, config as field};
    let home = Home::new();
    let text = SAMPLE.replace("reason = \"on call\"", "reason = \"on call\"\ncontent = \"hash\"");
    let config = home.load(&text).unwrap_or_else(|error| panic!("{error}"));
    let contents: Vec<Content> = config.access.iter().map(|access| access.content).collect();
    assert_eq!(contents, [Content::Hash, Content::Full]);
    let events = config.events("start");
    let lines = events.iter().find_map(|event| event.get(field::ACCESS)).unwrap();
    let Value::List(lines) = lines else { panic!("{lines:?}") };
    let content = |line: &Value| match line {
        Value::List(fields) => fields.get(5).cloned(),
        _ => None,
    };
    assert_eq!(lines.iter().filter_map(content).collect::<Vec<_>>(), [Value::from("hash"), Value::from("full")]);
}

#[test]
fn what_may_be_forwarded_is_said_with_the_access_and_in_the_snapshot() {
    use casemate_recorder::transcript::event::{EVENT_LEN_MAX, Value, config as field, encode};
    let home = Home::new();
    let with = |list: &str| SAMPLE.replace("reason = \"on call\"", &format!("reason = \"on call\"\nforward = {list}"));
    let config = home.load(&with("[\"localhost:80\", \"listen:*:0\"]")).unwrap_or_else(|error| panic!("{error}"));
    let forwards: Vec<Vec<&str>> = config.access.iter().map(|access| access.forwards.texts().collect()).collect();
    assert_eq!(forwards, [vec!["localhost:80", "listen:*:0"], vec![]]);
    let events = config.events("start");
    let lines = events.iter().find_map(|event| event.get(field::ACCESS)).unwrap();
    let Value::List(lines) = lines else { panic!("{lines:?}") };
    let last = |line: &Value| match line {
        Value::List(fields) => fields.get(6).cloned(),
        _ => None,
    };
    let list = |patterns: &[&str]| Value::List(patterns.iter().map(|pattern| Value::from(*pattern)).collect());
    let told: Vec<Value> = lines.iter().filter_map(last).collect();
    assert_eq!(told, [list(&["localhost:80", "listen:*:0"]), list(&[])]);

    let longest = |count: usize| {
        let hosts: Vec<String> = (0..count).map(|n| format!("\"listen:{n:03}{}:65535\"", "h".repeat(250))).collect();
        with(&format!("[{}]", hosts.join(",")))
    };
    let config = home.load(&longest(100)).unwrap_or_else(|error| panic!("{error}"));
    for event in config.events("start") {
        let mut bytes = Vec::new();
        encode(&mut bytes, u64::MAX, u64::MAX, &event);
        assert!(bytes.len() < EVENT_LEN_MAX);
    }
    let problems = problems(&home, &longest(101));
    assert!(problems.iter().any(|problem| problem.what.contains("over the limit of 100")), "{problems:?}");
}

#[test]
fn the_example_passes_the_check_and_shows_the_defaults() {
    let home = Home::new();
    home.make_key("keys/ssh_host_ed25519_key");
    home.make_key("keys/ssh_host_ca_ed25519_key");
    home.make_key("keys/target_ed25519_key");
    let text = include_str!("../../../casemate.example.toml");
    let config = home.load(text).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(config.limits, Limits::default());
    assert_eq!((config.persons.len(), config.targets.len(), config.access.len()), (2, 1, 1));
    assert_eq!(config.notice.matches("\r\n").count(), 2);
    assert_eq!(config.access[0].content, Content::default());
    for field in ["alias", "reason", "content", "forward", "immutable", "retain", "durability", "notice"] {
        assert!(text.contains(field), "{field} is not explained");
    }
}

/// Two recipients as `age-keygen` prints them; nobody holds their identities.
const AUDITOR: &str = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
const SPARE: &str = "age1lvyvwawkr0mcnnnncaghunadrqkmuf9e6507x9y920xxpp866cnql7dp2z";

/// The sample with encryption: these recipients, by name and key, and these lines before the first table.
fn encrypted(home: &Home, lines: &str, recipients: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let top = format!("encryption = \"age\"\n{lines}");
    let mut text = SAMPLE.replace("encryption = \"none\"\n", &top);
    for (name, key) in recipients {
        text.push_str(&format!("\n[[recipient]]\nname = \"{name}\"\nkey = \"{key}\"\n"));
    }
    home.load(&text)
}

#[test]
fn recordings_are_encrypted_to_the_recipients_that_are_named() {
    let home = Home::new();
    let state = "state_key = \"keys/state.agekey\"\n";
    let config = encrypted(&home, state, &[("auditor", AUDITOR), ("spare", SPARE)]).unwrap_or_else(|e| panic!("{e}"));
    let keys: Vec<_> = config.encryption.recipients().iter().map(ToString::to_string).collect();
    assert_eq!(keys, [AUDITOR, SPARE]);
    assert_eq!(config.encryption.to_string(), format!("age auditor {AUDITOR} spare {SPARE}"));
    let waived = format!("{state}single_recipient = true\n");
    assert!(encrypted(&home, &waived, &[("auditor", AUDITOR)]).is_ok());
}

#[test]
fn what_would_lose_recordings_or_give_them_away_is_refused() {
    let home = Home::new();
    let state = "state_key = \"keys/state.agekey\"\n";
    let two = [("auditor", AUDITOR), ("spare", SPARE)];
    let own = Identity::parse_file(&std::fs::read_to_string(home.path("keys/state.agekey")).unwrap()).unwrap();
    let (secret, own) = (own[0].to_file(), own[0].recipient().to_string());
    let secret = secret.lines().last().unwrap().to_owned();
    /// Lines, recipients, and what the complaint says.
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);
    let cases: &[Case<'_>] = &[
        (state, &[("auditor", AUDITOR)], "single_recipient = true"),
        (state, &[], "0 recipients"),
        ("single_recipient = true\n", &[("auditor", AUDITOR)], "state_key is missing"),
        ("", &two, "state_key is missing"),
        ("state_key = \"keys/nowhere\"\n", &two, "keys/nowhere"),
        ("state_key = \"keys/node.key\"\n", &two, "age identity"),
        (state, &[("auditor", AUDITOR), ("spare", AUDITOR)], "named twice"),
        (state, &[("auditor", AUDITOR), ("auditor", SPARE)], "two recipients are named"),
        (state, &[("auditor", AUDITOR), ("spare", "age1xyz")], "not an age recipient"),
        (state, &[("auditor", AUDITOR), ("spare", own.as_str())], "read back what it writes"),
        (state, &[("auditor", AUDITOR), ("spare", secret.as_str())], "this is an identity"),
    ];
    for (lines, recipients, words) in cases {
        let error = encrypted(&home, lines, recipients).err().unwrap_or_else(|| panic!("taken: {words}")).to_string();
        assert!(error.contains(words), "{error}");
        assert!(!error.contains(&secret), "a secret key in a message");
    }
    let with = SAMPLE.to_owned() + &format!("\n[[recipient]]\nname = \"auditor\"\nkey = \"{AUDITOR}\"\n");
    assert!(home.load(&with).err().unwrap().to_string().contains("recipients, but encryption"));
}

/// Writes what a PostgreSQL target needs on disk and returns the lines that use it, and those of the front door.
fn postgres(home: &Home) -> (String, String) {
    use casemate_certs::keys::write_private;
    let names = ["db.example".to_owned(), "127.0.0.1".to_owned()];
    let made = crate::pg::tls::generate("bastion-1", &names, std::time::SystemTime::now()).unwrap();
    std::fs::write(home.path("keys/ca.pem"), &made.ca_pem).unwrap();
    std::fs::write(home.path("keys/pg.crt"), &made.leaf.cert_pem).unwrap();
    write_private(&home.path("keys/pg.key"), &made.leaf.key_pem).unwrap();
    let state = std::fs::read_to_string(home.path("keys/state.agekey")).unwrap();
    let state = Identity::parse_file(&state).unwrap().remove(0).recipient();
    std::fs::write(home.path("keys/orders.age"), state.seal(b"s3cret\n").unwrap()).unwrap();
    std::fs::write(home.path("keys/foreign.age"), Identity::generate().recipient().seal(b"s3cret").unwrap()).unwrap();
    let target = "\n[[target]]\nname = \"orders\"\nkind = \"pg\"\naddress = \"db.example:5432\"\ndatabase = \"orders\"\n\
                  ca_file = \"keys/ca.pem\"\nresults = \"rows:10\"\n\
                  [[target.role]]\nlogin = \"app\"\npassword_file = \"keys/orders.age\"\n\
                  [[access]]\nperson = \"alice\"\ntargets = [\"orders\"]\nroles = [\"app\"]\nread_only = true\n";
    let front = "[postgres]\ncertificate = \"keys/pg.crt\"\nkey = \"keys/pg.key\"\nauthority = \"keys/ca.pem\"\n";
    (target.to_owned(), front.to_owned())
}

/// The sample with a state key and with that behind it.
fn with_state_key(text: &str) -> String {
    format!("state_key = \"keys/state.agekey\"\n{}{text}", SAMPLE)
}

#[test]
fn a_postgresql_target_is_read_with_what_opens_it() {
    let home = Home::new();
    let (target, front) = postgres(&home);
    let text = with_state_key(&format!("{target}{front}"))
        .replace("ssh = [\"127.0.0.1:2222\"]", "ssh = [\"127.0.0.1:2222\"]\npostgres = [\"127.0.0.1:6432\"]");
    let config = home.load(&text).unwrap_or_else(|error| panic!("{error}"));
    let orders = config.targets.iter().find(|target| target.name == "orders").unwrap();
    let service = orders.pg().unwrap();
    assert_eq!((orders.kind(), service.results, service.tunnel_token), (TargetKind::Pg, Results::Rows(10), true));
    let TargetAuth::Pg(auth) = &orders.roles[0].auth else { panic!("another kind of login") };
    assert_eq!(auth.password.as_ref().map(|password| password.as_str()), Some("s3cret"));
    assert!(auth.tls.is_some());
    assert_eq!(config.access.iter().map(|access| access.read_only).collect::<Vec<_>>(), [false, false, true]);
    assert_eq!(config.listen.postgres, ["127.0.0.1:6432".parse().unwrap()]);
    assert!(config.postgres.is_some_and(|front| front.authority.is_some()));
}

#[test]
fn a_name_may_stand_for_a_machine_and_for_its_database() {
    let home = Home::new();
    let (target, _) = postgres(&home);
    let both = target.replace("\"orders\"\nkind", "\"web1\"\nkind").replace("[\"orders\"]", "[\"web1\"]");
    home.load(&with_state_key(&both)).unwrap_or_else(|error| panic!("{error}"));
    // Within a kind it may not.
    let twice = format!("{target}{target}");
    let found = problems(&home, &with_state_key(&twice));
    assert!(found.iter().any(|problem| problem.what.contains("already taken")), "{found:?}");
}

#[test]
fn mistakes_about_postgresql_get_their_remedy() {
    let home = Home::new();
    let (target, front) = postgres(&home);
    let listening = "ssh = [\"127.0.0.1:2222\"]\npostgres = [\"127.0.0.1:6432\"]";
    for (from, to, what, remedy) in [
        ("kind = \"pg\"", "kind = \"mysql\"", "kind \"mysql\" is not known", "\"pg\""),
        ("database = \"orders\"\n", "", "target.database is missing", "databases = [\"*\"]"),
        ("database = \"orders\"", "database = \"\"", "no name of a database", "63 bytes"),
        ("ca_file = \"keys/ca.pem\"\n", "", "target.ca_file is missing", "PEM file"),
        ("ca_file = \"keys/ca.pem\"", "ca_file = \"keys/none\"", "keys/none", ""),
        ("ca_file = \"keys/ca.pem\"", "tls = \"off\"", "tls = \"off\" for db.example", "ca_file"),
        ("ca_file = \"keys/ca.pem\"", "tls = \"verify-ca\"", "tls = \"verify-ca\" does not check", "verify-full"),
        ("rows:10", "some", "results \"some\" is not known", "rows:N"),
        ("keys/orders.age", "keys/foreign.age", "encrypted to another key", "casemate secret"),
        ("keys/orders.age", "keys/pg.crt", "not an age file", "casemate secret"),
        ("keys/orders.age", "keys/none", "cannot read", "casemate secret"),
        ("password_file", "key_file", "a client certificate without its key", "cert_file"),
        ("certificate = \"keys/pg.crt\"", "certificate = \"keys/none\"", "keys/none", ""),
        ("keys/pg.key", "keys/host", "keys/host", ""),
        (
            "authority = \"keys/ca.pem\"",
            "authority = \"keys/pg.key\"",
            "no file of certificates alone",
            "without any key",
        ),
        ("authority = \"keys/ca.pem\"", "tls_min = \"1.1\"", "tls_min \"1.1\" is not known", "1.2"),
        ("authority = \"keys/ca.pem\"", "revoked = [\"x\"]", "revoked without client_ca", "client_ca"),
        (front.as_str(), "", "postgres is missing", "casemate init"),
        ("127.0.0.1:6432", "127.0.0.1:2222", "both listen.ssh and listen.postgres", "port of its own"),
    ] {
        let text = with_state_key(&format!("{target}{front}")).replace("ssh = [\"127.0.0.1:2222\"]", listening);
        assert!(text.contains(from), "{from}");
        let found = problems(&home, &text.replace(from, to));
        let hit = |problem: &Problem| problem.what.contains(what) && problem.remedy.contains(remedy);
        assert!(found.iter().any(hit), "{from} -> {to}: {found:?}");
    }
    // Without a state key nothing that is encrypted to it can be opened.
    let found = problems(&home, &format!("{SAMPLE}{target}"));
    assert!(found.iter().any(|problem| problem.what.contains("without state_key")), "{found:?}");
}

/// The sample with one bucket behind its vault.
fn with_bucket(lines: &str) -> String {
    SAMPLE.replacen("[limits]", &format!("[[vault.s3]]\n{lines}\n\n[limits]"), 1)
}

#[test]
fn a_bucket_has_defaults_and_every_setting_is_taken() {
    let home = Home::new();
    let config = home.load(&with_bucket("name = \"basel\"\nbucket = \"evidence\"")).unwrap();
    let expected = Settings { name: "basel".into(), bucket: "evidence".into(), ..Settings::default() };
    assert_eq!(config.vault.s3, [expected]);
    assert_eq!(config.vault.segment_age(), Duration::from_secs(60));

    std::fs::write(home.path("keys/s3"), "[default]\n").unwrap();
    chmod(&home.path("keys/s3"), 0o600);
    let lines = "name = \"basel\"\nbucket = \"evidence\"\nregion = \"eu\"\nendpoint = \"https://s3.example.com:8443\"\n\
                 path_style = false\nprefix = \"/a/b/\"\nowner = \"1\"\nmode = \"governance\"\nstorage_class = \"STANDARD_IA\"\n\
                 encryption = \"aws:kms\"\nkms_key = \"k\"\nchecksum = \"md5\"\ncredentials = \"keys/s3\"\nca = \"keys/s3\"\n\
                 profile = \"writer\"\ncanary_profile = \"canary\"\ntimeout = \"5s\"";
    let config = home.load(&with_bucket(lines)).unwrap_or_else(|error| panic!("{error}"));
    let text = |text: &str| Some(text.to_owned());
    let expected = Settings {
        name: "basel".into(),
        bucket: "evidence".into(),
        prefix: "a/b/".into(),
        region: text("eu"),
        endpoint: text("https://s3.example.com:8443"),
        path_style: Some(false),
        owner: text("1"),
        mode: LockMode::Governance,
        storage_class: text("STANDARD_IA"),
        encryption: Some(ServerSideEncryption::Kms(text("k"))),
        checksum: Checksum::Md5,
        ca: Some(home.path("keys/s3")),
        credentials: Some(home.path("keys/s3")),
        profile: text("writer"),
        timeout: Some(Duration::from_secs(5)),
        canary_profile: text("canary"),
    };
    assert_eq!(config.vault.s3, [expected]);
}

#[test]
fn what_is_wrong_with_a_bucket_is_told_with_what_to_do() {
    let home = Home::new();
    std::fs::write(home.path("keys/open"), "").unwrap();
    chmod(&home.path("keys/open"), 0o644);
    for (line, words) in [
        ("name = \"Basel\"", ["no such name", "lower-case"]),
        ("bucket = \"a/b\"", ["no such name", "lower-case"]),
        ("bucket = \"\"", ["no such name", "63"]),
        ("endpoint = \"http://10.0.0.1\"", ["plain HTTP", "https://"]),
        ("endpoint = \"s3.example.com\"", ["no address of a server", "https://HOST"]),
        ("endpoint = \"https://s3.example.com/path\"", ["no address of a server", "https://HOST"]),
        ("prefix = \"a//b\"", ["not taken", "parted by /"]),
        ("mode = \"locked\"", ["mode \"locked\" is not known", "compliance"]),
        ("checksum = \"sha1\"", ["checksum \"sha1\" is not known", "sha256"]),
        ("encryption = \"rot13\"", ["encryption \"rot13\" is not known", "aws:kms"]),
        ("kms_key = \"k\"", ["kms_key without", "aws:kms"]),
        ("credentials = \"keys/none\"", ["cannot open", "check the path"]),
        ("credentials = \"keys/open\"", ["keys/open", "chmod"]),
        ("ca = \"keys/none\"", ["No such file", "PEM"]),
        ("timeout = \"0s\"", ["timeout", "duration"]),
        ("retain = \"1d\"", ["retain", "unknown"]),
    ] {
        let field = line.split_once(" =").unwrap().0;
        let whole = ["name = \"basel\"", "bucket = \"evidence\""];
        let rest: Vec<_> = whole.into_iter().filter(|known| !known.starts_with(field)).collect();
        let found = problems(&home, &with_bucket(&format!("{line}\n{}", rest.join("\n"))));
        let fits = |problem: &Problem| words.iter().all(|word| problem.to_string().contains(word));
        assert!(found.iter().any(fits), "{line}: {words:?}: {found:#?}");
    }
    let twice = "name = \"basel\"\nbucket = \"a\"\n[[vault.s3]]\nname = \"basel\"\nbucket = \"b\"";
    assert!(problems(&home, &with_bucket(twice)).iter().any(|problem| problem.what.contains("two vaults")));
    assert!(problems(&home, &with_bucket("")).len() >= 2, "name and bucket are missing");
}
