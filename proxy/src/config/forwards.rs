//! What an access line lets people forward: patterns of places, compared as text and never looked up.
//!
//! Says yes or no to what a client names. A name and the address behind it are two places here: whoever allows one has
//! not allowed the other.

use std::net::Ipv6Addr;

/// Patterns of one access line. With the longest of all, the line stays well below an event's limit.
pub(super) const FORWARDS_MAX: usize = 100;

/// The longest path that a socket can have on the systems that targets run (sun_path, less its end).
const PATH_LEN_MAX: usize = 107;

/// The longest name of a host (RFC 1035 §2.3.4).
const HOST_LEN_MAX: usize = 253;

/// What a pattern may look like, for messages.
pub(super) const FORMS: &str = "write HOST:PORT or unix:/PATH for what the target connects to, listen:HOST:PORT or \
                                listen:unix:/PATH for where it listens; * stands for any host or port, IPv6 is in brackets";

/// What may be forwarded; nothing by default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Forwards(Vec<Pattern>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    /// As it was written, for the record.
    text: String,
    /// Whether it is about listening.
    listen: bool,
    place: Place,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// A host, in lower case, and a port; `None` is any.
    Tcp(Option<String>, Option<u16>),
    /// A socket's path.
    Unix(String),
}

impl Forwards {
    /// Adds a pattern.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn add(&mut self, text: &str) -> Result<(), &'static str> {
        let pattern = Pattern::parse(text)?;
        if self.0.iter().any(|known| (known.listen, &known.place) == (pattern.listen, &pattern.place)) {
            return Err("is listed twice");
        }
        self.0.push(pattern);
        Ok(())
    }

    /// The patterns as they were written.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|pattern| pattern.text.as_str())
    }

    /// Whether nothing at all may be forwarded.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the target may be asked to connect there.
    pub fn connects(&self, host: &str, port: u32) -> bool {
        self.any(false, |place| place.is_tcp(host, port))
    }

    /// Whether the target may be asked to connect to that socket.
    pub fn connects_to_path(&self, path: &str) -> bool {
        self.any(false, |place| place.is_unix(path))
    }

    /// Whether the target may be asked to listen there; port 0 lets it choose one.
    pub fn listens(&self, host: &str, port: u32) -> bool {
        self.any(true, |place| place.is_tcp(host, port))
    }

    /// Whether the target may be asked to listen at that socket.
    pub fn listens_at_path(&self, path: &str) -> bool {
        self.any(true, |place| place.is_unix(path))
    }

    fn any(&self, listen: bool, fits: impl Fn(&Place) -> bool) -> bool {
        self.0.iter().any(|pattern| pattern.listen == listen && fits(&pattern.place))
    }
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let (listen, place) = match text.strip_prefix("listen:") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let place = match place.strip_prefix("unix:") {
            Some(path) => Place::unix(path)?,
            None => Place::tcp(place, listen)?,
        };
        Ok(Self { text: text.to_owned(), listen, place })
    }
}

impl Place {
    fn unix(path: &str) -> Result<Self, &'static str> {
        if !path.starts_with('/') || path.ends_with('/') || path.contains(char::is_control) {
            return Err("has no absolute path of a socket");
        }
        if path.len() > PATH_LEN_MAX {
            return Err("has a path that is longer than a socket's can be");
        }
        Ok(Self::Unix(path.to_owned()))
    }

    fn tcp(text: &str, listen: bool) -> Result<Self, &'static str> {
        let (host, port) = text.rsplit_once(':').ok_or("has no port")?;
        let port = match port {
            "*" => None,
            // "+22" parses as a number too.
            digits if digits.bytes().all(|c| c.is_ascii_digit()) => {
                Some(digits.parse::<u16>().map_err(|_| "has no port from 1 to 65535")?)
            }
            _ => return Err("has no port from 1 to 65535"),
        };
        if port == Some(0) && !listen {
            return Err("has port 0, which stands for a free one and is for listening only");
        }
        if host == "*" {
            return Ok(Self::Tcp(None, port));
        }
        let host = match host.strip_prefix('[') {
            Some(inner) => {
                let inner = inner.strip_suffix(']').filter(|inner| inner.parse::<Ipv6Addr>().is_ok());
                inner.ok_or("has no IPv6 address in its brackets")?
            }
            None => host,
        };
        let fits = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_');
        let is_host = !host.is_empty() && host.len() <= HOST_LEN_MAX && host.bytes().all(fits);
        if !is_host && host.parse::<Ipv6Addr>().is_err() || !text.starts_with('[') && host.contains(':') {
            return Err("has no host");
        }
        Ok(Self::Tcp(Some(host.to_ascii_lowercase()), port))
    }

    fn is_tcp(&self, host: &str, port: u32) -> bool {
        match self {
            Self::Tcp(known, number) => {
                host.len() <= HOST_LEN_MAX
                    && known.as_ref().is_none_or(|known| known.eq_ignore_ascii_case(host))
                    && number.map_or(port <= u32::from(u16::MAX), |number| u32::from(number) == port)
            }
            Self::Unix(_) => false,
        }
    }

    fn is_unix(&self, path: &str) -> bool {
        matches!(self, Self::Unix(known) if known == path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forwards(patterns: &[&str]) -> Forwards {
        let mut forwards = Forwards::default();
        patterns.iter().for_each(|pattern| forwards.add(pattern).unwrap_or_else(|why| panic!("{pattern} {why}")));
        forwards
    }

    #[test]
    fn nothing_passes_that_is_not_named() {
        let none = Forwards::default();
        assert!(!none.connects("localhost", 80) && !none.listens("localhost", 80) && none.is_empty());
        assert!(!none.connects_to_path("/run/app.sock") && !none.listens_at_path("/run/app.sock"));
    }

    #[test]
    fn a_place_is_compared_as_text() {
        let named = forwards(&["LocalHost:8080", "10.0.0.5:5432", "*:9090", "db:*", "[::1]:7"]);
        for (host, port) in
            [("localhost", 8080), ("LOCALHOST", 8080), ("10.0.0.5", 5432), ("any.example", 9090), ("", 9090)]
        {
            assert!(named.connects(host, port), "{host}:{port}");
        }
        assert!(named.connects("db", 1) && named.connects("db", 65_535) && named.connects("::1", 7));
        assert!(!named.connects(&"h".repeat(HOST_LEN_MAX + 1), 9090));
        for (host, port) in [
            ("localhost", 8081),
            ("127.0.0.1", 8080),
            ("localhost.", 8080),
            ("10.0.0.05", 5432),
            ("10.0.0.5", 5433),
            ("db", 65_536),
            ("any.example", 9090 + 65_536),
            ("0:0:0:0:0:0:0:1", 7),
            ("[::1]", 7),
        ] {
            assert!(!named.connects(host, port), "{host}:{port}");
        }
    }

    #[test]
    fn connecting_and_listening_are_two_things() {
        let named = forwards(&["unix:/run/app.sock", "localhost:80", "listen:localhost:9000", "listen:unix:/tmp/l"]);
        assert!(named.connects("localhost", 80) && !named.listens("localhost", 80));
        assert!(named.listens("localhost", 9000) && !named.connects("localhost", 9000) && !named.listens("", 9000));
        assert!(named.connects_to_path("/run/app.sock") && !named.listens_at_path("/run/app.sock"));
        assert!(named.listens_at_path("/tmp/l") && !named.connects_to_path("/tmp/l"));
        for path in ["/run/app.sock/", "/run//app.sock", "run/app.sock", "/run/../run/app.sock", ""] {
            assert!(!named.connects_to_path(path), "{path}");
        }
        let free = forwards(&["listen:*:0"]);
        assert!(free.listens("", 0) && free.listens("localhost", 0) && !free.listens("", 1));
        assert!(forwards(&["listen:*:*"]).listens("0.0.0.0", 0));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for (pattern, why) in [
            ("", "no port"),
            ("localhost", "no port"),
            (":80", "no host"),
            ("localhost:", "no port"),
            ("localhost:http", "no port"),
            ("localhost:+80", "no port"),
            ("localhost:65536", "no port"),
            ("localhost:0", "listening only"),
            ("local host:80", "no host"),
            ("*.example:80", "no host"),
            ("::1:80", "no host"),
            ("[localhost]:80", "no IPv6"),
            ("[::1:80", "no IPv6"),
            ("unix:run", "absolute"),
            ("unix:", "absolute"),
            ("unix:/run/", "absolute"),
            ("unix:/run/\n", "absolute"),
            ("listen:unix:*", "absolute"),
            ("listen:", "no port"),
            ("listen:listen:*:1", "no host"),
        ] {
            let answer = Forwards::default().add(pattern);
            assert!(answer.is_err_and(|answer| answer.contains(why)), "{pattern}: {answer:?}");
        }
        let long = format!("unix:/{}", "x".repeat(PATH_LEN_MAX));
        assert!(Forwards::default().add(&long).is_err_and(|why| why.contains("longer")));
        let mut twice = forwards(&["localhost:80", "listen:localhost:80"]);
        assert!(twice.add("LOCALHOST:80").is_err_and(|why| why.contains("twice")));
    }

    #[test]
    fn patterns_stay_as_they_were_written() {
        let patterns = ["LocalHost:8080", "listen:*:0", "unix:/run/App.sock"];
        assert_eq!(forwards(&patterns).texts().collect::<Vec<_>>(), patterns);
    }
}
