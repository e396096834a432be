//! Names of prepared statements and portals: read off the front of messages, and what they stand for.
//!
//! A name is kept as a keyed hash, eight bytes whatever a client calls its statements: nobody who does not know the key can
//! make two names that meet. What is remembered under names is bounded; what a name was forgotten for is not wrong, only
//! unknown. Does not know when a name takes effect: that is the target's word, and `flow`'s business.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

/// How much of a name PostgreSQL looks at: its tables of statements and portals have keys of `NAMEDATALEN` (64 bytes with the
/// zero byte), and two names that begin alike so far are one.
const NAME_LEN_MAX: usize = 63;

/// Names at the front of the message that has the most of them: Bind.
const NAMES_MAX: usize = 2;

/// A name of a statement or a portal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Name(u64);

impl Name {
    /// The empty name, which is that of the unnamed statement and the unnamed portal.
    pub(super) const UNNAMED: Self = Self(0);
}

/// What a client's message begins with: a kind for Describe and Close, and names.
#[derive(Debug)]
pub(super) struct Heading {
    key: RandomState,
    /// Whether the next byte is the kind.
    kind_next: bool,
    kind: u8,
    /// How many names there are, and how many of them have ended.
    wanted: usize,
    ended: usize,
    names: [([u8; NAME_LEN_MAX], usize); NAMES_MAX],
}

impl Heading {
    pub(super) fn new() -> Self {
        let names = [([0; NAME_LEN_MAX], 0); NAMES_MAX];
        Self { key: RandomState::new(), kind_next: false, kind: 0, wanted: 0, ended: 0, names }
    }

    /// Starts to read a message.
    pub(super) fn begin(&mut self, tag: u8) {
        self.kind_next = matches!(tag, b'C' | b'D');
        self.kind = 0;
        self.ended = 0;
        self.wanted = match tag {
            b'B' => 2,
            b'P' | b'C' | b'D' | b'E' => 1,
            _ => 0,
        };
        self.names.iter_mut().for_each(|(_, len)| *len = 0);
    }

    /// Takes the next bytes of the message, and looks at no more of them than names are long.
    pub(super) fn feed(&mut self, mut payload: &[u8]) {
        if self.kind_next
            && let Some((kind, rest)) = payload.split_first()
        {
            (self.kind, self.kind_next, payload) = (*kind, false, rest);
        }
        while self.ended < self.wanted && !payload.is_empty() {
            let Some((name, len)) = self.names.get_mut(self.ended) else { return };
            let end = payload.iter().position(|byte| *byte == 0);
            let (part, rest) = payload.split_at(end.unwrap_or(payload.len()));
            let room = name.get_mut(*len..).unwrap_or_default();
            let kept = room.len().min(part.len());
            room.iter_mut().zip(part).for_each(|(place, byte)| *place = *byte);
            *len += kept;
            self.ended += usize::from(end.is_some());
            payload = rest.get(1..).unwrap_or_default();
        }
    }

    /// Returns the kind that Describe and Close begin with.
    pub(super) fn kind(&self) -> u8 {
        self.kind
    }

    /// Returns a name by its place in the message.
    pub(super) fn name(&self, place: usize) -> Name {
        match self.names.get(place).and_then(|(name, len)| name.get(..*len)) {
            None | Some([]) => Name::UNNAMED,
            // Zero is taken.
            Some(name) => Name(self.key.hash_one(name).max(1)),
        }
    }
}

/// What names stand for, for as many of them as are remembered. The unnamed one has a place of its own: it is the common case.
#[derive(Debug)]
pub(super) struct Known<T> {
    unnamed: Option<T>,
    named: HashMap<Name, (u64, T)>,
    max: usize,
}

impl<T> Known<T> {
    /// Remembers at most `max` names.
    pub(super) fn new(max: usize) -> Self {
        Self { unnamed: None, named: HashMap::new(), max }
    }

    pub(super) fn get(&self, name: Name) -> Option<&T> {
        if name == Name::UNNAMED {
            return self.unnamed.as_ref();
        }
        self.named.get(&name).map(|(_, value)| value)
    }

    pub(super) fn get_mut(&mut self, name: Name) -> Option<&mut T> {
        if name == Name::UNNAMED {
            return self.unnamed.as_mut();
        }
        self.named.get_mut(&name).map(|(_, value)| value)
    }

    /// Makes room for another name: where there is none, the older half of all names is forgotten and returned. Who prepares
    /// without end uses the newest.
    pub(super) fn make_room(&mut self) -> Vec<T> {
        if self.named.len() < self.max.max(1) {
            return Vec::new();
        }
        let mut ages: Vec<u64> = self.named.values().map(|(number, _)| *number).collect();
        let middle = ages.len() / 2;
        let (_, middle, _) = ages.select_nth_unstable(middle);
        self.named.extract_if(|_, (number, _)| number <= middle).map(|(_, (_, value))| value).collect()
    }

    /// Lets a name stand for what message `number` made, and returns what it stood for.
    pub(super) fn insert(&mut self, name: Name, number: u64, value: T) -> Option<T> {
        if name == Name::UNNAMED {
            return self.unnamed.replace(value);
        }
        self.named.insert(name, (number, value)).map(|(_, value)| value)
    }

    pub(super) fn remove(&mut self, name: Name) -> Option<T> {
        if name == Name::UNNAMED {
            return self.unnamed.take();
        }
        self.named.remove(&name).map(|(_, value)| value)
    }

    /// Forgets all names that are not empty.
    pub(super) fn clear_named(&mut self) {
        self.named = HashMap::new();
    }

    pub(super) fn has_named(&self) -> bool {
        !self.named.is_empty()
    }

    /// Forgets everything and hands it over, the unnamed first and then from the oldest on.
    pub(super) fn drain(&mut self, each: impl FnMut(T)) {
        // Taking an empty one costs nothing, and that is what there mostly is.
        let mut named: Vec<_> = std::mem::take(&mut self.named).into_values().collect();
        named.sort_unstable_by_key(|(number, _)| *number);
        self.unnamed.take().into_iter().chain(named.into_iter().map(|(_, value)| value)).for_each(each);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_same_however_the_message_is_cut() {
        let long = "x".repeat(200);
        let bind = format!("{long}\0statement\0rest\0");
        let mut heading = Heading::new();
        let mut seen = Vec::new();
        for cut in [1, 2, 5, 63, 64, bind.len()] {
            heading.begin(b'B');
            bind.as_bytes().chunks(cut).for_each(|piece| heading.feed(piece));
            seen.push((heading.name(0), heading.name(1)));
        }
        assert!(seen.iter().all(|names| *names == seen[0]), "{seen:?}");
        heading.begin(b'P');
        heading.feed(b"statement\0select 1\0\0\0");
        assert_eq!(heading.name(0), seen[0].1);
        heading.begin(b'C');
        heading.feed(b"Sstatement\0");
        assert_eq!((heading.kind(), heading.name(0)), (b'S', seen[0].1));
        heading.begin(b'E');
        heading.feed(b"\0\0\0\0\0");
        assert_eq!(heading.name(0), Name::UNNAMED);
    }

    #[test]
    fn a_name_is_its_first_63_bytes() {
        let mut heading = Heading::new();
        let mut name = |text: String| {
            heading.begin(b'P');
            heading.feed(format!("{text}\0").as_bytes());
            heading.name(0)
        };
        assert_eq!(name("a".repeat(63)), name("a".repeat(70)));
        assert_ne!(name("a".repeat(62)), name("a".repeat(63)));
    }

    #[test]
    fn the_older_half_of_the_names_goes_when_there_is_no_room() {
        let mut known = Known::new(100);
        let forgotten: Vec<u64> = (1..=1000)
            .flat_map(|n| {
                let forgotten = known.make_room();
                assert_eq!(known.insert(Name(n), n, n), None);
                forgotten
            })
            .collect();
        assert!(known.named.len() <= 100);
        let mut left = Vec::new();
        known.drain(|n| left.push(n));
        assert!(left.is_sorted() && forgotten.iter().all(|n| *n < left[0]), "{left:?}");
        assert_eq!(forgotten.len() + left.len(), 1000);
    }
}
