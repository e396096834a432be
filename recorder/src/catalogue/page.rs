//! The name of a page: the rows of sessions that ended within one hour, or a part of them. Sans-IO.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;

use crate::vault::day;

/// An hour in microseconds.
const HOUR_US: u64 = 3_600_000_000;

/// A page. Nothing is ever written twice under one name: a restart within the hour begins another part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Page {
    /// Hours since 1970.
    pub(crate) hour: u64,
    pub(crate) part: u32,
}

impl Page {
    /// Returns the hour that a time lies in.
    pub(crate) fn hour(wall_us: u64) -> u64 {
        wall_us / HOUR_US
    }

    /// Returns the directory of its day in a vault.
    pub(crate) fn dir(&self, node: &str) -> String {
        format!("v1/cat/dt={}/node={node}", self.day())
    }

    /// Returns its name in a vault.
    pub(crate) fn key(&self, node: &str) -> String {
        format!("{}/{}", self.dir(node), self.file_name())
    }

    /// Returns the last part of that name.
    fn file_name(&self) -> String {
        match self.part {
            0 => format!("{:02}.jsonl.zst", self.hour % 24),
            part => format!("{:02}-{part}.jsonl.zst", self.hour % 24),
        }
    }

    /// Reads the last part of a name in the directory of a page of the same day.
    pub(crate) fn sibling(&self, name: &str) -> Option<Self> {
        let stem = name.strip_suffix(".jsonl.zst")?;
        let page: Self = format!("{}T{stem}", self.day()).parse().ok()?;
        (page.file_name() == name).then_some(page)
    }

    fn day(&self) -> String {
        day(self.hour.saturating_mul(HOUR_US))
    }
}

impl fmt::Display for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}T{:02}", self.day(), self.hour % 24)?;
        if self.part > 0 { write!(f, "-{}", self.part) } else { Ok(()) }
    }
}

impl FromStr for Page {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        // `2026-11-22T08` and `2026-11-22T08-1`.
        let (hour, part) = text.split_at_checked(13).ok_or(())?;
        let part = match part.strip_prefix('-') {
            Some(part) => part.parse().map_err(drop)?,
            None if part.is_empty() => 0,
            None => return Err(()),
        };
        let at: Timestamp = format!("{hour}:00:00Z").parse().map_err(drop)?;
        let page = Self { hour: Self::hour(u64::try_from(at.as_microsecond()).map_err(drop)?), part };
        (page.to_string() == text).then_some(page).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_one_name_here_and_one_in_a_vault() {
        let page = Page { hour: Page::hour(1_763_769_600_000_000) + 8, part: 0 };
        assert_eq!(page.to_string(), "2025-11-22T08");
        assert_eq!(page.key("n1"), "v1/cat/dt=2025-11-22/node=n1/08.jsonl.zst");
        let part = Page { part: 12, ..page };
        assert_eq!(part.key("n1"), "v1/cat/dt=2025-11-22/node=n1/08-12.jsonl.zst");
        for page in [page, part] {
            assert_eq!(page.to_string().parse(), Ok(page));
            let name = page.key("n1");
            assert_eq!(page.sibling(name.rsplit('/').next().unwrap()), Some(page));
        }
    }

    #[test]
    fn other_names_are_no_pages() {
        for text in ["", "2025-11-22T8", "2025-11-22T08-", "2025-11-22T08-0", "2025-11-22T08-01", "2025-11-22T24", "x"]
        {
            assert_eq!(text.parse::<Page>(), Err(()), "{text}");
        }
        let page = Page { hour: 7, part: 0 };
        for name in ["07.jsonl", "7.jsonl.zst", "07-0.jsonl.zst", ".07.jsonl.zst.new"] {
            assert_eq!(page.sibling(name), None, "{name}");
        }
    }
}
