//! The verbs that people type at the bastion itself: `ssh PERSON@BASTION VERB …`.
//!
//! Words in, a reply out. A person sees and does what their duties allow; what they typed and what they were answered is in
//! the record of their portal session. Knows no SSH.

mod greeting;
mod live;
mod retention;
mod statement;
mod token;

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use crate::config::Duty;
use crate::server::Door;
use crate::session::Session;

/// Who asks, and from where.
pub(crate) struct Caller<'a> {
    /// The portal session that the question came in.
    pub(crate) session: &'a Arc<Session>,
    /// The bastion's address as the client reached it.
    pub(crate) local: SocketAddr,
}

/// What comes of a verb.
pub(crate) enum Outcome {
    /// An answer, and that is all.
    Reply(Reply),
    /// The caller's terminal shows that session until one of the two ends.
    Watch(Arc<Session>),
}

/// What a verb answers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    /// Standard output.
    pub(crate) out: String,
    /// A place in `out` that is shown and not recorded.
    pub(crate) secret: Option<Range<usize>>,
    /// Standard error.
    pub(crate) err: String,
    /// 0 done, 1 refused, 2 usage.
    pub(crate) status: u32,
}

impl Reply {
    fn done(out: impl Into<String>) -> Self {
        Self { out: out.into(), secret: None, err: String::new(), status: 0 }
    }

    pub(crate) fn refused(why: impl AsRef<str>) -> Self {
        Self { out: String::new(), secret: None, err: format!("casemate: {}\n", why.as_ref()), status: 1 }
    }

    fn usage(why: impl AsRef<str>) -> Self {
        Self { out: String::new(), secret: None, err: format!("casemate: {}\n{USAGE}", why.as_ref()), status: 2 }
    }
}

const USAGE: &str = "\
usage: ssh PERSON@BASTION [VERB] [--json]
  whoami        who you are, where you may go, and the lines to paste; also without a verb
  sessions      the sessions that are live: your own, all of them for an auditor
  watch ID      shows a session as it goes on, in your terminal: ssh -t …; q leaves
  kill ID       ends a session: your own, any for an auditor
  token TARGET  a password for a database, for a while; not recorded
  authority     the certificates that a PostgreSQL client may believe: its sslrootcert
  slip ID       a line that proves later what the log said now
  hold ID       the order that sets a legal hold on a session, for two officers to sign; auditors
  lift ID       the order that lifts one; auditors
  submit        takes a signed order, or the signed result of a restore test, from standard input; auditors
  retire        the sessions that need not be kept any longer; with --delete, they go; auditors
  help          this
";

/// One verb with its argument.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verb {
    Greet,
    Help,
    Sessions,
    Watch(String),
    Kill(String),
    Slip(String),
    Token(String),
    Authority,
    /// Sets a hold, or lifts one.
    Order {
        set: bool,
        id: String,
    },
    Submit,
    Retire {
        delete: bool,
    },
}

/// Bytes that `submit` takes: a statement, and more signatures than anybody gathers. Less than an entry of the node log may have.
pub(crate) const INPUT_LEN_MAX: usize = 32 * 1024;

/// Whether what was typed goes on in standard input.
pub(crate) fn takes_input(words: &[u8]) -> bool {
    matches!(parse(words), Ok((Verb::Submit, _)))
}

/// Reads what was typed; whether JSON is wanted comes with it.
fn parse(words: &[u8]) -> Result<(Verb, bool), String> {
    let text = std::str::from_utf8(words).map_err(|_| "the command is not UTF-8".to_owned())?;
    let (options, words): (Vec<&str>, Vec<&str>) =
        text.split_ascii_whitespace().partition(|word| word.starts_with('-'));
    let delete = options.contains(&"--delete");
    let known = |option: &&str| ["--json", "--help"].contains(option) || (*option == "--delete" && words == ["retire"]);
    if let Some(unknown) = options.iter().find(|option| !known(option)) {
        return Err(format!("unknown option {unknown:?}"));
    }
    let verb = match words.as_slice() {
        _ if options.contains(&"--help") => Verb::Help,
        [] | ["whoami"] => Verb::Greet,
        ["help"] => Verb::Help,
        ["sessions"] => Verb::Sessions,
        ["watch", id] => Verb::Watch((*id).to_owned()),
        ["kill", id] => Verb::Kill((*id).to_owned()),
        ["slip", id] => Verb::Slip((*id).to_owned()),
        ["hold", id] => Verb::Order { set: true, id: (*id).to_owned() },
        ["lift", id] => Verb::Order { set: false, id: (*id).to_owned() },
        ["submit"] => Verb::Submit,
        ["retire"] => Verb::Retire { delete },
        ["authority"] => Verb::Authority,
        ["token", target] => Verb::Token((*target).to_owned()),
        ["token", ..] => return Err("token takes the name of one target".to_owned()),
        [verb @ ("watch" | "kill" | "slip" | "hold" | "lift"), ..] => {
            return Err(format!("{verb} takes the ID of one session"));
        }
        [verb @ ("authority" | "help" | "retire" | "sessions" | "submit" | "whoami"), ..] => {
            return Err(format!("{verb} takes no argument"));
        }
        [verb, ..] => return Err(format!("unknown verb {verb:?}")),
    };
    Ok((verb, options.contains(&"--json")))
}

/// Does what was asked for. `input` is what came on standard input, where the verb takes any.
pub(crate) async fn run(door: &Door, caller: &Caller<'_>, words: &[u8], input: &[u8]) -> Outcome {
    Outcome::Reply(match parse(words) {
        Ok((Verb::Greet, json)) => greeting::greet(door, caller, json),
        Ok((Verb::Help, _)) => Reply::done(USAGE),
        Ok((Verb::Sessions, json)) => live::sessions(door, caller, json),
        Ok((Verb::Watch(id), _)) => match live::watch(door, caller, &id) {
            Ok(session) => return Outcome::Watch(session),
            Err(refused) => refused,
        },
        Ok((Verb::Kill(id), _)) => live::kill(door, caller, &id),
        Ok((Verb::Authority, _)) => token::authority(door),
        Ok((Verb::Token(target), json)) => token::token(door, caller, &target, json),
        Ok((Verb::Slip(id), _)) => live::slip(door, caller, &id).await,
        Ok((Verb::Order { set, id }, _)) => statement::order(door, caller, set, &id).await,
        Ok((Verb::Submit, json)) => statement::submit(door, caller, input, json).await,
        Ok((Verb::Retire { delete }, json)) => retention::retire(door, caller, delete, json).await,
        Err(why) => Reply::usage(why),
    })
}

/// Refuses whoever does not check the record.
fn auditors_only(door: &Door, caller: &Caller<'_>, verb: &str) -> Result<(), Reply> {
    if has_duty(door, caller, Duty::Auditor) {
        return Ok(());
    }
    Err(Reply::refused(format!("{verb} is for auditors: the configuration gives you no such duty")))
}

/// Reads something off the disk while the others go on.
async fn at_leisure<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> Result<T, Reply> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) => Err(Reply::refused(format!(
            "the node log or the vault cannot be read or written: {error}; look at the bastion's disk"
        ))),
        Err(error) => Err(Reply::refused(format!("the work was not finished: {error}; try again"))),
    }
}

/// Whether the caller has that duty by the rules in force now.
fn has_duty(door: &Door, caller: &Caller<'_>, duty: Duty) -> bool {
    let policy = door.policy();
    let person = caller.session.identity().person();
    policy.config().persons.iter().any(|known| known.name == person && known.duties.contains(&duty))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_are_read_with_their_options_anywhere() {
        let cases: &[(&[u8], Verb, bool)] = &[
            (b"", Verb::Greet, false),
            (b" whoami --json ", Verb::Greet, true),
            (b"sessions --json", Verb::Sessions, true),
            (b"--json kill 0199", Verb::Kill("0199".to_owned()), true),
            (b"slip 0199", Verb::Slip("0199".to_owned()), false),
            (b"kill --help", Verb::Help, false),
            (b"submit", Verb::Submit, false),
            (b"hold 0199", Verb::Order { set: true, id: "0199".to_owned() }, false),
            (b"retire --delete --json", Verb::Retire { delete: true }, true),
        ];
        for (words, verb, json) in cases {
            assert_eq!(parse(words), Ok((verb.clone(), *json)));
        }
    }

    #[test]
    fn what_is_no_verb_says_so() {
        let cases: &[(&[u8], &str)] = &[
            (b"fly", "unknown verb \"fly\""),
            (b"kill", "kill takes the ID of one session"),
            (b"kill a b", "kill takes the ID of one session"),
            (b"sessions now", "sessions takes no argument"),
            (b"sessions --delete", "unknown option \"--delete\""),
            (b"retire 0199", "retire takes no argument"),
            (b"--yaml", "unknown option \"--yaml\""),
            (b"\xff", "the command is not UTF-8"),
        ];
        for (words, why) in cases {
            assert_eq!(parse(words), Err((*why).to_owned()));
        }
    }
}
