//! Every type of event, with its number, its name in exports, its lane and its fields. `FORMAT.md` is compared with it by a test.

use super::{EventType, Field, Lane, TypeSpec};

/// Declares the vocabulary: a module of constants per type, and the table over all of them.
macro_rules! vocabulary {
    ($($(#[$doc:meta])* $number:literal $module:ident $name:literal $lane:ident
        { $($key:literal $field:ident $label:literal),* $(,)? })*) => {
        $(
            $(#[$doc])*
            pub mod $module {
                /// The type number.
                pub const TYPE: super::EventType = super::EventType($number);
                $(
                    #[doc = concat!("Field ", $key, ", `", $label, "` in exports.")]
                    pub const $field: super::Field = super::Field { of: TYPE, key: $key };
                )*
            }
        )*
        /// Every type this version writes.
        pub const TYPES: &[TypeSpec] = &[
            $(TypeSpec {
                number: $module::TYPE,
                name: $name,
                lane: Lane::$lane,
                fields: &[$(($key, $label)),*],
            }),*
        ];
    };
}

vocabulary! {
    /// Bytes the client sent on an SSH channel.
    1 ssh_in "ssh.in" Input {}
    /// Bytes the target sent to standard output of an SSH channel.
    2 ssh_out "ssh.out" Output {}
    /// Bytes the target sent to standard error of an SSH channel.
    3 ssh_err "ssh.err" Output {}

    /// Frames that a PostgreSQL client sent, but for those of `pg.in`: both in their order are what it sent.
    4 pg_sql "pg.sql" Output {}
    /// Frames of a PostgreSQL client that carry values: Bind, CopyData, FunctionCall.
    5 pg_in "pg.in" Input {}
    /// Frames that a PostgreSQL target sent.
    6 pg_out "pg.out" Output {}

    /// A channel was asked for; side is 1 where the target asked, for a forward that listens there.
    16 chan_open "ssh.open" Meta { 1 KIND "kind", 2 ACCEPTED "accepted", 3 REASON "reason", 4 HOST "host", 5 PORT "port", 6 ORIGIN_HOST "originator", 7 ORIGIN_PORT "originator_port", 8 PATH "path", 9 SIDE "side" }
    /// A pseudo-terminal was asked for (RFC 4254 §6.2); modes are the raw encoded string.
    17 pty "ssh.pty" Meta { 1 TERM "term", 2 COLS "cols", 3 ROWS "rows", 4 WIDTH "width", 5 HEIGHT "height", 6 MODES "modes", 7 ACCEPTED "accepted" }
    /// The window changed (RFC 4254 §6.7).
    18 resize "ssh.resize" Meta { 1 COLS "cols", 2 ROWS "rows", 3 WIDTH "width", 4 HEIGHT "height" }
    /// An environment variable was asked for (RFC 4254 §6.4).
    19 env "ssh.env" Input { 1 NAME "name", 2 VALUE "value", 3 ACCEPTED "accepted" }
    /// A command was asked for (RFC 4254 §6.5); the bytes are verbatim.
    20 exec "ssh.exec" Output { 1 COMMAND "command", 2 ACCEPTED "accepted" }
    /// A shell was asked for.
    21 shell "ssh.shell" Meta { 1 ACCEPTED "accepted" }
    /// A subsystem was asked for.
    22 subsystem "ssh.subsystem" Meta { 1 NAME "name", 2 ACCEPTED "accepted" }
    /// A signal was sent to the process (RFC 4254 §6.9).
    23 signal "ssh.signal" Meta { 1 NAME "name" }
    /// The process ended: a status, or a signal (RFC 4254 §6.10).
    24 exit "ssh.exit" Meta { 1 STATUS "status", 2 SIGNAL "signal", 3 CORE "core_dumped", 4 MESSAGE "message" }
    /// One side will send no more on this channel; side 0 is the client, 1 the target.
    25 eof "ssh.eof" Meta { 1 SIDE "side" }
    /// A channel was closed; side 0 is the client, 1 the target, 2 the bastion.
    26 chan_close "ssh.close" Meta { 1 SIDE "side", 2 REASON "reason" }
    /// A request was refused or is outside what a grant allows: what it was, and why.
    27 refused "ssh.refused" Meta { 1 WHAT "what", 2 REASON "reason" }
    /// A channel request that passed and has no type of its own (`xon-xoff`, …).
    28 request "ssh.request" Meta { 1 NAME "name", 2 SIDE "side" }
    /// The target answered a pty, env, shell, exec or subsystem request, or one to forward; or either side one to open a
    /// forwarded connection.
    29 reply "ssh.reply" Meta { 1 TO "to", 2 SUCCESS "success", 3 SIDE "side", 4 REASON "reason" }
    /// Bytes of an extended data code other than 1 (RFC 4254 §5.2), with the code.
    30 extended "ssh.extended" Output { 1 CODE "code", 2 DATA "bytes", 3 SIDE "side" }

    /// A file was asked for: by SFTP's OPEN, or as scp announced it. `result` is SFTP's status code, or scp's 0, 1 or 2.
    32 file_open "file.open" Output { 1 FILE "file", 2 PATH "path", 3 FLAGS "flags", 4 RESULT "result", 5 ERROR "error", 6 SIZE "size", 7 MODE "mode", 8 ATIME "atime", 9 MTIME "mtime", 10 NAME "name", 11 CLIPPED "clipped" }
    /// An open file is done with: what of its content passed, and the BLAKE3 of that or why there is none.
    33 file_close "file.close" Output { 1 FILE "file", 2 PATH "path", 3 SIDE "side", 4 BYTES "bytes", 5 OFFSET "offset", 6 BLAKE3 "blake3", 7 WHY "why", 8 RESULT "result", 9 ERROR "error" }
    /// Anything else that was done to files, with the answer to it.
    34 file_op "file.op" Output { 1 WHAT "what", 2 PATH "path", 3 TO "to", 4 FILE "file", 5 RESULT "result", 6 ERROR "error", 7 SIZE "size", 8 UID "uid", 9 GID "gid", 10 MODE "mode", 11 ATIME "atime", 12 MTIME "mtime", 13 COUNT "count", 14 CLIPPED "clipped" }
    /// The content of an open file so far, as it was sent.
    35 file_digest "file.digest" Output { 1 FILE "file", 2 SIDE "side", 3 BYTES "bytes", 4 OFFSET "offset", 5 BLAKE3 "blake3", 6 WHY "why" }
    /// File operations of this channel are not told any more; its bytes are all recorded from here on.
    36 file_lost "file.lost" Meta { 1 WHY "why", 2 SIDE "side" }
    /// File content that passed and is not in the record: how much now, how much in all, and the BLAKE3 of all of it.
    37 file_elided "file.elided" Output { 1 SIDE "side", 2 BYTES "bytes", 3 TOTAL "total", 4 BLAKE3 "blake3" }
    /// A program that moves files in a way that is not taken apart, when it ended: its words, and the bytes each way.
    38 file_command "file.command" Output { 1 KIND "kind", 2 ARGV "argv", 3 SENT "sent", 4 RECEIVED "received" }

    /// Bytes the client's side sent on a forwarded connection.
    40 fwd_in "fwd.in" Input {}
    /// Bytes the target's side sent on a forwarded connection.
    41 fwd_out "fwd.out" Output {}
    /// A socket that is to listen at the target, for connections towards the client: asked for, or given up.
    42 fwd_listen "fwd.listen" Meta { 1 WHAT "what", 2 HOST "host", 3 PORT "port", 4 PATH "path", 5 ACCEPTED "accepted", 6 REASON "reason", 7 BOUND "bound" }
    /// A forwarded connection is over: what passed each way, and who closed it.
    43 fwd_end "fwd.end" Meta { 1 KIND "kind", 2 HOST "host", 3 PORT "port", 4 PATH "path", 5 SENT "sent", 6 SENT_BLAKE3 "sent_blake3", 7 RECEIVED "received", 8 RECEIVED_BLAKE3 "received_blake3", 9 BY "by", 10 REASON "reason" }

    /// A PostgreSQL connection was asked for: protocol version and parameters as they were sent, and what of them went on.
    64 pg_startup "pg.startup" Meta { 1 PROTOCOL "protocol", 2 PARAMETERS "parameters", 3 GRANTED "granted", 4 TLS "tls", 5 LEFT_OUT "left_out" }
    /// The target took the login: its process, its version, how it was proved who speaks, and by what TLS.
    65 pg_ready "pg.ready" Meta { 1 PID "pid", 2 VERSION "version", 3 METHOD "method", 4 TLS "tls", 5 CERTIFICATE "certificate", 6 USER "user", 7 DATABASE "database" }
    /// A statement is over: which one, how it ended, and what it moved. `frame` numbers the client's frames.
    68 pg_done "pg.done" Output { 1 FRAME "frame", 2 PARSE "parse", 3 BIND "bind", 4 INDEX "index", 5 TAG "tag", 6 ROWS "rows", 7 BYTES "bytes", 8 US "us", 9 SQLSTATE "sqlstate", 10 ERROR "error", 11 BLAKE3 "blake3", 12 BATCHES "batches", 13 COPIED "copied", 14 OUTCOME "outcome", 15 SEVERITY "severity" }
    /// Rows that passed and are not in the record: how many bytes now, how many in all, and the BLAKE3 of all of them.
    69 pg_elided "pg.elided" Output { 1 SIDE "side", 2 BYTES "bytes", 3 TOTAL "total", 4 BLAKE3 "blake3" }
    /// Somebody asked to cancel what a session does.
    71 pg_cancel "pg.cancel" Meta { 1 SOURCE "source", 2 FORWARDED "forwarded", 3 REASON "reason", 4 TLS "tls", 5 SESSION "session" }
    /// The target had something to say besides: NoticeResponse.
    72 pg_notice "pg.notice" Output { 1 SEVERITY "severity", 2 SQLSTATE "sqlstate", 3 MESSAGE "message", 4 FRAME "frame" }
    /// Somebody notified a channel that the session listens to.
    73 pg_notify "pg.notify" Output { 1 PID "pid", 2 CHANNEL "channel", 3 PAYLOAD "payload" }
    /// A parameter of the session has another value.
    74 pg_parameter "pg.parameter" Meta { 1 NAME "name", 2 VALUE "value" }
    /// The session is in another state: `I` idle, `T` in a transaction, `E` in one that failed.
    75 pg_transaction "pg.transaction" Meta { 1 STATUS "status" }
    /// An ErrorResponse that is no statement's: mostly the end of the session.
    76 pg_fatal "pg.fatal" Output { 1 SEVERITY "severity", 2 SQLSTATE "sqlstate", 3 MESSAGE "message", 4 FRAME "frame" }
    /// Which answer belongs to which statement is not told any more; bytes are all recorded from here on.
    77 pg_lost "pg.lost" Meta { 1 WHY "why", 2 SIDE "side", 3 FRAME "frame" }
    /// The types of a statement's parameters, by their OIDs, as the target described them.
    78 pg_described "pg.described" Meta { 1 PARSE "parse", 2 PARAMETERS "parameters" }

    /// A login step towards the bastion: accepted or refused, for which name, by which key, from where.
    96 auth "auth" Meta { 1 NAME "name", 2 METHOD "method", 3 FINGERPRINT "fingerprint", 4 ACCEPTED "accepted", 5 REASON "reason", 6 SOURCE "source" }
    /// Who the session belongs to.
    97 identity "identity" Meta { 1 PERSON "person", 2 METHOD "method", 3 FINGERPRINT "fingerprint", 4 SOURCE "source", 5 CLIENT "client", 6 PORTAL "portal" }
    /// What the session may do and where it leads.
    98 grant "grant" Meta { 1 GRANT "grant", 2 TARGET "target", 3 ROLE "role", 4 ADDRESS "address", 5 REASON "reason", 6 UNTIL "until", 7 CONTENT "content", 8 FORWARD "forward", 9 RESULTS "results", 10 READ_ONLY "read_only", 11 REPLICATION "replication" }
    /// A decision of policy outside a running session.
    99 policy "policy" Meta { 1 RULE "rule", 2 DECISION "decision", 3 PERSON "person", 4 TARGET "target", 5 ROLE "role", 6 REASON "reason", 7 SOURCE "source" }
    /// The configuration in force: its BLAKE3 and what it says.
    101 config "config" Meta { 1 HASH "blake3", 2 DURABILITY "durability", 3 ENCRYPTION "encryption", 4 PERSONS "persons", 5 TARGETS "targets", 6 ACCESS "access", 7 LISTENERS "listeners", 8 CAUSE "cause" }
    /// The wall clock moved against the boot-time clock.
    102 clock "clock" Meta { 1 WALL_US "wall_us", 2 BOOT_US "boot_us", 3 STEP_US "step_us", 4 BACKWARD "backward" }
    /// The bastion itself ended a session or a channel.
    105 ended "ended" Meta { 1 BY "by", 2 REASON "reason" }
    /// A text that the bastion showed to a person.
    107 shown "shown" Meta { 1 WHAT "what", 2 TEXT "text" }
    /// The target was reached: what it said it is and the host key it proved.
    109 dialled "dialled" Meta { 1 ADDRESS "address", 2 HOST_KEY "host_key", 3 SOFTWARE "software" }
    /// The target could not be reached, or was not the one that is pinned.
    110 unreachable "unreachable" Meta { 1 ADDRESS "address", 2 REASON "reason", 3 HOST_KEY "host_key" }
    /// The daemon: started, stopping, reloaded.
    111 daemon "daemon" Meta { 1 WHAT "what", 2 VERSION "version", 3 REASON "reason" }
    /// A session of another transcript was opened or closed.
    112 session "session" Meta { 1 ID "id", 2 WHAT "what", 3 PERSON "person", 4 TARGET "target", 5 ROLE "role", 6 REASON "reason" }
    /// An alert that the bastion raised, whether or not somebody was told: what kind, in words, about which session.
    113 alert "alert" Meta { 1 WHAT "what", 2 TEXT "text", 3 SESSION "session" }
    /// What somebody had the node do with what was recorded, or told it of that: their statement, and who signed it.
    114 act "act" Meta { 1 WHAT "what", 2 PERSON "person", 3 TEXT "text", 4 SIGNATURES "signatures", 5 SESSION "session" }

    /// Bytes that passed and stand as `*` in the stream that follows: a password or a token.
    119 redacted "redacted" Meta { 1 SIDE "side", 2 BYTES "bytes" }
    /// Bytes that were not recorded: how many, which way, and their BLAKE3.
    120 gap "gap" Meta { 1 REASON "reason", 2 SIDE "side", 3 BYTES "bytes", 4 BLAKE3 "blake3" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_numbers_and_names_are_unique() {
        let mut numbers: Vec<_> = TYPES.iter().map(|spec| spec.number).collect();
        let mut names: Vec<_> = TYPES.iter().map(|spec| spec.name).collect();
        numbers.dedup();
        assert_eq!(numbers.len(), TYPES.len(), "numbers ascend and do not repeat");
        assert!(numbers.is_sorted());
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TYPES.len());
    }
}
