//! Messages of a frontend, made without a check: what a test wants to send, it can.

/// Makes a message without a tag, as before the login.
pub fn untagged(payload: &[u8]) -> Vec<u8> {
    [&(payload.len() as u32 + 4).to_be_bytes(), payload].concat()
}

/// Makes a message with a tag.
pub fn frame(tag: u8, payload: &[u8]) -> Vec<u8> {
    [&[tag][..], &untagged(payload)].concat()
}

/// SSLRequest.
pub fn ssl_request() -> Vec<u8> {
    untagged(&80_877_103_u32.to_be_bytes())
}

/// GSSENCRequest.
pub fn gss_request() -> Vec<u8> {
    untagged(&80_877_104_u32.to_be_bytes())
}

/// CancelRequest.
pub fn cancel_request(pid: u32, key: &[u8]) -> Vec<u8> {
    untagged(&[&80_877_102_u32.to_be_bytes()[..], &pid.to_be_bytes(), key].concat())
}

/// StartupMessage.
pub fn startup(version: u32, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut payload = version.to_be_bytes().to_vec();
    for (name, value) in parameters {
        payload.extend([name.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat());
    }
    payload.push(0);
    untagged(&payload)
}

/// PasswordMessage.
pub fn password(password: &[u8]) -> Vec<u8> {
    frame(b'p', &[password, b"\0"].concat())
}

/// SASLInitialResponse.
pub fn sasl_initial(mechanism: &str, data: &[u8]) -> Vec<u8> {
    frame(b'p', &[mechanism.as_bytes(), b"\0", &(data.len() as u32).to_be_bytes(), data].concat())
}

/// Query.
pub fn query(sql: &[u8]) -> Vec<u8> {
    frame(b'Q', &[sql, b"\0"].concat())
}

/// Parse, with types by number.
pub fn parse(name: &str, sql: &[u8], types: &[u32]) -> Vec<u8> {
    let mut payload = [name.as_bytes(), b"\0", sql, b"\0", &(types.len() as u16).to_be_bytes()].concat();
    payload.extend(types.iter().flat_map(|oid| oid.to_be_bytes()));
    frame(b'P', &payload)
}

/// Bind, with parameters as text and results as text.
pub fn bind(portal: &str, statement: &str, values: &[Option<&[u8]>]) -> Vec<u8> {
    bind_as(portal, statement, &[], values, &[])
}

/// Bind, with formats of parameters and results: none, one for all, or one each.
pub fn bind_as(portal: &str, statement: &str, formats: &[u16], values: &[Option<&[u8]>], results: &[u16]) -> Vec<u8> {
    let list = |codes: &[u16]| -> Vec<u8> {
        let count = (codes.len() as u16).to_be_bytes();
        count.into_iter().chain(codes.iter().flat_map(|code| code.to_be_bytes())).collect()
    };
    let mut payload = [portal.as_bytes(), b"\0", statement.as_bytes(), b"\0", &list(formats)].concat();
    payload.extend((values.len() as u16).to_be_bytes());
    for value in values {
        match value {
            Some(value) => payload.extend([&(value.len() as u32).to_be_bytes()[..], value].concat()),
            None => payload.extend((-1_i32).to_be_bytes()),
        }
    }
    payload.extend(list(results));
    frame(b'B', &payload)
}

/// Describe: `S` a statement, `P` a portal.
pub fn describe(kind: u8, name: &str) -> Vec<u8> {
    frame(b'D', &[&[kind][..], name.as_bytes(), b"\0"].concat())
}

/// Execute, with the most rows to return; 0 for all.
pub fn execute(portal: &str, rows: u32) -> Vec<u8> {
    frame(b'E', &[portal.as_bytes(), b"\0", &rows.to_be_bytes()].concat())
}

/// Close: `S` a statement, `P` a portal.
pub fn close(kind: u8, name: &str) -> Vec<u8> {
    frame(b'C', &[&[kind][..], name.as_bytes(), b"\0"].concat())
}

/// Sync.
pub fn sync() -> Vec<u8> {
    frame(b'S', b"")
}

/// Flush.
pub fn flush() -> Vec<u8> {
    frame(b'H', b"")
}

/// Terminate.
pub fn terminate() -> Vec<u8> {
    frame(b'X', b"")
}

/// CopyData.
pub fn copy_data(data: &[u8]) -> Vec<u8> {
    frame(b'd', data)
}

/// CopyDone.
pub fn copy_done() -> Vec<u8> {
    frame(b'c', b"")
}

/// CopyFail.
pub fn copy_fail(why: &str) -> Vec<u8> {
    frame(b'f', &[why.as_bytes(), b"\0"].concat())
}
