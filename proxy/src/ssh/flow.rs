//! What a session channel may be asked for, and when (RFC 4254 §6).
//!
//! Requests in, verdicts out. Does not know who asks, nor what the target will say to it.

/// A command, name or value is at most this long. Linux lets one argument be no longer (MAX_ARG_STRLEN, less its end), so
/// more could not run anyway; and an event holds two of them.
pub(crate) const TEXT_LEN_MAX: usize = 120 * 1024;

/// Returns as much of a text as an event takes; the rest belongs to a request that is refused.
pub(crate) fn clip(text: &[u8]) -> &[u8] {
    text.get(..TEXT_LEN_MAX).unwrap_or(text)
}

/// What a client can ask of a session channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask<'a> {
    /// A pseudo-terminal.
    Pty,
    /// An environment variable; whether the configuration lets its name pass.
    Env {
        /// Whether the allow-list names it.
        allowed: bool,
    },
    /// An interactive shell.
    Shell,
    /// One command.
    Exec,
    /// A subsystem by name.
    Subsystem(&'a str),
    /// Bytes of standard input.
    Data,
}

/// Why a request does not go on to the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// A second terminal on the channel.
    #[error("the channel has a terminal already")]
    SecondPty,
    /// A second program on the channel, or its preparation after the start.
    #[error("the channel runs a program already")]
    Started,
    /// The allow-list does not name the variable.
    #[error("the variable is not in limits.env")]
    Variable,
    /// Only `sftp` passes.
    #[error("the subsystem is not sftp")]
    Subsystem,
    /// The client said that it would send no more.
    #[error("data after end of file")]
    AfterEof,
    /// It runs no program.
    #[error("a forwarded connection takes no requests")]
    Forward,
    /// A command, name or value over [`TEXT_LEN_MAX`].
    #[error("longer than the limit of 122880 bytes; its beginning is recorded")]
    TooLong,
}

/// Where a channel is between its opening and its end, as far as the client's requests tell.
#[derive(Debug, Default)]
pub(crate) struct ChannelFlow {
    pty: bool,
    program: Option<Program>,
    eof: bool,
    forward: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Program {
    Shell,
    Other,
}

impl ChannelFlow {
    /// Begins that of a forwarded connection: bytes and their end, and nothing else.
    pub(crate) fn forward() -> Self {
        Self { forward: true, ..Self::default() }
    }

    /// Whether requests without an answer may pass.
    pub(crate) fn hears(&self) -> bool {
        !self.forward
    }

    /// Takes a request in, if it may go on.
    ///
    /// # Errors
    /// [`Refusal`] when it may not; nothing has changed then.
    pub(crate) fn ask(&mut self, ask: Ask<'_>) -> Result<(), Refusal> {
        match ask {
            Ask::Data => return if self.eof { Err(Refusal::AfterEof) } else { Ok(()) },
            _ if self.forward => return Err(Refusal::Forward),
            _ if self.program.is_some() => return Err(Refusal::Started),
            Ask::Pty if self.pty => return Err(Refusal::SecondPty),
            Ask::Pty => self.pty = true,
            Ask::Env { allowed: false } => return Err(Refusal::Variable),
            Ask::Env { allowed: true } => {}
            Ask::Shell => self.program = Some(Program::Shell),
            Ask::Exec | Ask::Subsystem("sftp") => self.program = Some(Program::Other),
            Ask::Subsystem(_) => return Err(Refusal::Subsystem),
        }
        Ok(())
    }

    /// Takes back what the target refused, so that the client may try something else, as it could there.
    pub(crate) fn refused_by_target(&mut self, ask: Ask<'_>) {
        match ask {
            Ask::Pty => self.pty = false,
            Ask::Shell | Ask::Exec | Ask::Subsystem(_) => self.program = None,
            Ask::Env { .. } | Ask::Data => {}
        }
    }

    /// Notes that the client sends no more, and returns whether that is news.
    pub(crate) fn eof(&mut self) -> bool {
        !std::mem::replace(&mut self.eof, true)
    }

    /// Whether a person sits at it: a shell on a terminal. Nothing else gets an added byte.
    pub(crate) fn interactive(&self) -> bool {
        self.pty && self.program == Some(Program::Shell)
    }

    /// Whether it has a terminal, which decides how lines end.
    pub(crate) fn has_pty(&self) -> bool {
        self.pty
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_and_variables_come_before_one_program() {
        let mut flow = ChannelFlow::default();
        assert_eq!(flow.ask(Ask::Pty), Ok(()));
        assert_eq!(flow.ask(Ask::Pty), Err(Refusal::SecondPty));
        assert_eq!(flow.ask(Ask::Env { allowed: true }), Ok(()));
        assert_eq!(flow.ask(Ask::Env { allowed: false }), Err(Refusal::Variable));
        assert!(!flow.interactive());
        assert_eq!(flow.ask(Ask::Shell), Ok(()));
        assert!(flow.interactive());
        for late in [Ask::Pty, Ask::Env { allowed: true }, Ask::Shell, Ask::Exec, Ask::Subsystem("sftp")] {
            assert_eq!(flow.ask(late), Err(Refusal::Started), "{late:?}");
        }
    }

    #[test]
    fn only_a_shell_on_a_terminal_is_interactive() {
        for (pty, ask, interactive) in [
            (true, Ask::Shell, true),
            (false, Ask::Shell, false),
            (true, Ask::Exec, false),
            (false, Ask::Subsystem("sftp"), false),
        ] {
            let mut flow = ChannelFlow::default();
            if pty {
                flow.ask(Ask::Pty).unwrap();
            }
            flow.ask(ask).unwrap();
            assert_eq!(flow.interactive(), interactive, "{pty} {ask:?}");
        }
    }

    #[test]
    fn other_subsystems_are_refused_and_leave_the_channel_free() {
        let mut flow = ChannelFlow::default();
        assert_eq!(flow.ask(Ask::Subsystem("netconf")), Err(Refusal::Subsystem));
        assert_eq!(flow.ask(Ask::Subsystem("sftp")), Ok(()));
    }

    #[test]
    fn a_forwarded_connection_takes_bytes_alone() {
        let mut flow = ChannelFlow::forward();
        for ask in [Ask::Pty, Ask::Env { allowed: true }, Ask::Shell, Ask::Exec, Ask::Subsystem("sftp")] {
            assert_eq!(flow.ask(ask), Err(Refusal::Forward), "{ask:?}");
        }
        assert!(!flow.hears() && ChannelFlow::default().hears());
        assert_eq!(flow.ask(Ask::Data), Ok(()));
        assert!(flow.eof() && !flow.interactive());
        assert_eq!(flow.ask(Ask::Data), Err(Refusal::AfterEof));
    }

    #[test]
    fn what_the_target_refused_can_be_tried_again() {
        let mut flow = ChannelFlow::default();
        flow.ask(Ask::Subsystem("sftp")).unwrap();
        flow.refused_by_target(Ask::Subsystem("sftp"));
        assert_eq!(flow.ask(Ask::Exec), Ok(()));
    }

    #[test]
    fn data_passes_before_a_program_and_not_after_the_end() {
        let mut flow = ChannelFlow::default();
        assert_eq!(flow.ask(Ask::Data), Ok(()));
        assert!(flow.eof());
        assert!(!flow.eof());
        assert_eq!(flow.ask(Ask::Data), Err(Refusal::AfterEof));
    }
}
