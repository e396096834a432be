//! Ansible with pipelining: ten hosts that are one target, five at a time, each over a connection that it keeps.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use casemate_tests::process::{nothing, run};

use super::{Matrix, PATIENCE, Way, executed};

const HOSTS: usize = 10;

#[test]
fn an_ansible_playbook_on_ten_hosts() {
    let mut matrix = Matrix::start();
    let sessions = matrix.compare("ansible-playbook", HOSTS, playbook);
    for session in &sessions {
        // Pipelining: modules come as input of an interpreter, so that a host takes few channels and no files.
        assert!(session.says("ssh.exec", "/usr/bin/python3"), "{:?}", session.of("ssh.exec").collect::<Vec<_>>());
        assert!(session.bytes("ssh.in").windows(7).any(|window| window == b"ansible"));
    }
    assert!(executed(&sessions, "/bin/sh -c"));
    matrix.verify();
}

fn playbook(way: &Way) {
    let masters = Masters::new(way);
    // A name of its own for each host, or all would share one connection.
    let hosts: String = (0..HOSTS).map(|number| format!("node{number} ansible_host=host{number}\n")).collect();
    let inventory = format!(
        "{hosts}[all:vars]\nansible_port={}\nansible_user={}\nansible_ssh_private_key_file={}\nthere={}\nhere={}\n",
        way.port,
        way.login,
        way.identity.display(),
        way.there(""),
        way.here(""),
    );
    let settings = format!(
        "[defaults]\ninventory = inventory\nforks = 5\nlocal_tmp = {0}/local\nremote_tmp = {0}/remote\n\
         interpreter_python = /usr/bin/python3\nretry_files_enabled = False\nnocows = True\n\
         [ssh_connection]\npipelining = True\ncontrol_path_dir = {1}\n\
         ssh_args = -F {0}/ssh_config -o ControlMaster=auto -o ControlPersist=60s\n",
        way.home.display(),
        masters.dir.display()
    );
    let ssh = format!(
        "Host host*\n  HostName 127.0.0.1\n  UserKnownHostsFile \"{}\"\n  GlobalKnownHostsFile /dev/null\n  \
         StrictHostKeyChecking yes\n  IdentitiesOnly yes\n  IdentityAgent none\n  LogLevel ERROR\n",
        way.client.known_hosts().display()
    );
    for (name, text) in [("inventory", &inventory), ("ansible.cfg", &settings), ("ssh_config", &ssh)] {
        fs::write(way.home.join(name), text).unwrap();
    }
    fs::write(way.home.join("playbook.yml"), include_str!("playbook.yml")).unwrap();
    for number in 0..HOSTS {
        fs::create_dir(way.there(&format!("node{number}"))).unwrap();
    }
    let mut ansible = way.program("ansible-playbook");
    ansible.current_dir(&way.home).env("ANSIBLE_CONFIG", way.home.join("ansible.cfg")).arg("playbook.yml");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("ANSIBLE_")) {
        if name != "ANSIBLE_CONFIG" {
            ansible.env_remove(name);
        }
    }
    // One host is made to fail at the end: 2 is how ansible-playbook says so.
    let done = run(&mut ansible, nothing(), PATIENCE).unwrap();
    assert_eq!(done.code(), 2, "{:?}: {}\n{}", way.route, done.out(), done.err());
    // Five hosts at a time: the order of their lines is chance.
    let mut lines: Vec<String> = done.out().lines().map(str::to_owned).collect();
    lines.sort_unstable();
    way.note("what it said", &lines.join("\n"));
    way.note("what it complained of", &way.mask(&done.err()));
    let count = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
    assert_eq!(count("unreachable=0"), HOSTS, "{}", done.out());
    assert_eq!(count("failed=0"), HOSTS - 1, "{}", done.out());
    assert_eq!(count("ended with 3 and said out and err"), HOSTS, "{}", done.out());
    for number in 0..HOSTS {
        way.assert_data(&way.there(&format!("node{number}/data")));
        way.assert_data(&way.here(&format!("fetched/node{number}")));
        let lines = fs::read_to_string(way.there(&format!("node{number}/lines"))).unwrap();
        assert_eq!(lines, format!("I am node{number}\n"));
    }
}

/// The connections that Ansible leaves behind for the next run, ended with the value.
struct Masters {
    dir: PathBuf,
}

impl Masters {
    fn new(way: &Way) -> Self {
        let dir = way.home.join("cp");
        fs::create_dir_all(&dir).unwrap();
        Self { dir }
    }
}

impl Drop for Masters {
    fn drop(&mut self) {
        let sockets = fs::read_dir(&self.dir).map(|entries| entries.flatten().collect::<Vec<_>>()).unwrap_or_default();
        for socket in sockets {
            let mut ssh = Command::new("ssh");
            ssh.args(["-F", "/dev/null", "-O", "exit", "-S"]).arg(socket.path()).arg("master");
            // One that ended by itself meanwhile is as good.
            let _ = run(&mut ssh, nothing(), PATIENCE);
        }
    }
}
