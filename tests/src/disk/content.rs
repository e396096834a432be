//! What a file holds: bytes as programs see them, bytes as the platter has them, and what lies between.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::noise::Noise;

/// What a disk writes whole or not at all.
pub const SECTOR_LEN: u64 = 512;
const PAGE_LEN: usize = 4096;
const ZEROS: [u8; PAGE_LEN] = [0; PAGE_LEN];

/// Bytes with holes, cheap to copy: pages are shared until one is written.
#[derive(Debug, Clone, Default)]
pub(super) struct Sparse {
    pages: BTreeMap<u64, Arc<[u8; PAGE_LEN]>>,
    len: u64,
}

impl Sparse {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        let (mut at, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let within = (at % PAGE_LEN as u64) as usize;
            let (part, after) = rest.split_at(rest.len().min(PAGE_LEN - within));
            let page = self.pages.entry(at / PAGE_LEN as u64).or_insert_with(|| Arc::new(ZEROS));
            if let Some(room) = Arc::make_mut(page).get_mut(within..within + part.len()) {
                room.copy_from_slice(part);
            }
            at += part.len() as u64;
            rest = after;
        }
        self.len = self.len.max(at);
    }

    /// Writes zeros; where there is a hole, it stays one.
    pub(super) fn zero(&mut self, offset: u64, len: u64) {
        let end = offset + len;
        let (first, last) = (offset / PAGE_LEN as u64, end.div_ceil(PAGE_LEN as u64));
        let touched: Vec<u64> = self.pages.range(first..last).map(|(number, _)| *number).collect();
        for number in touched {
            let start = number * PAGE_LEN as u64;
            let from = offset.saturating_sub(start) as usize;
            let to = (end - start).min(PAGE_LEN as u64) as usize;
            if from == 0 && to == PAGE_LEN {
                self.pages.remove(&number);
            } else if let Some(page) = self.pages.get_mut(&number)
                && let Some(room) = Arc::make_mut(page).get_mut(from..to)
            {
                room.fill(0);
            }
        }
        self.len = self.len.max(end);
    }

    pub(super) fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.zero(len, self.len - len);
        }
        self.len = len;
    }

    pub(super) fn read(&self) -> Vec<u8> {
        let mut out = vec![0; self.len as usize];
        for (number, page) in &self.pages {
            let from = *number as usize * PAGE_LEN;
            let to = (from + PAGE_LEN).min(out.len());
            if let Some(room) = out.get_mut(from..to) {
                room.copy_from_slice(page.get(..room.len()).unwrap_or_default());
            }
        }
        out
    }
}

/// A change that programs see and the platter may not have.
#[derive(Debug, Clone)]
enum Change {
    Write { offset: u64, bytes: Arc<[u8]> },
    Zeros { offset: u64, len: u64 },
    Len(u64),
}

impl Change {
    fn apply(&self, to: &mut Sparse) {
        match self {
            Self::Write { offset, bytes } => to.write(*offset, bytes),
            Self::Zeros { offset, len } => to.zero(*offset, *len),
            Self::Len(len) => to.set_len(*len),
        }
    }
}

/// One file.
#[derive(Debug, Clone, Default)]
pub(super) struct Inode {
    seen: Sparse,
    durable: Sparse,
    /// What was done since the last sync, each with the length of the file afterwards.
    pending: Vec<(Change, u64)>,
}

impl Inode {
    /// A file that lies on the platter as it is.
    fn settled(content: Sparse) -> Self {
        Self { seen: content.clone(), durable: content, pending: Vec::new() }
    }

    pub(super) fn seen(&self) -> &Sparse {
        &self.seen
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.seen);
        self.pending.push((change, self.seen.len()));
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        let zeros = bytes.chunks(PAGE_LEN).all(|part| ZEROS.starts_with(part));
        self.change(match zeros {
            true => Change::Zeros { offset, len: bytes.len() as u64 },
            false => Change::Write { offset, bytes: bytes.into() },
        });
    }

    pub(super) fn set_len(&mut self, len: u64) {
        self.change(Change::Len(len));
    }

    pub(super) fn sync(&mut self) {
        for (change, _) in self.pending.drain(..) {
            change.apply(&mut self.durable);
        }
    }

    /// A failed sync as Linux does it: some of the pages reached the platter, all of them count as clean from here on, and
    /// programs go on seeing what they wrote.
    pub(super) fn fail_sync(&mut self, luck: &mut Luck) {
        self.durable = self.landed(luck);
        self.pending.clear();
    }

    /// What the platter holds after a power cut at this moment.
    fn landed(&self, luck: &mut Luck) -> Sparse {
        let mut out = self.durable.clone();
        for (change, _) in &self.pending {
            match change {
                Change::Write { offset, bytes } => {
                    let (mut at, mut rest) = (*offset, &bytes[..]);
                    while !rest.is_empty() {
                        let room = (SECTOR_LEN - at % SECTOR_LEN) as usize;
                        let (sector, after) = rest.split_at(rest.len().min(room));
                        if luck.lands() {
                            out.write(at, sector);
                        }
                        at += sector.len() as u64;
                        rest = after;
                    }
                }
                Change::Zeros { .. } | Change::Len(_) => {
                    if luck.lands() {
                        change.apply(&mut out);
                    }
                }
            }
        }
        // The length is written apart from the data: any that the file ever had since the sync may be the one that stays.
        let lens: Vec<u64> =
            std::iter::once(self.durable.len()).chain(self.pending.iter().map(|(_, len)| *len)).collect();
        if let Some(len) = lens.get(luck.pick(lens.len())) {
            out.set_len(*len);
        }
        out
    }

    pub(super) fn after_power_cut(&self, luck: &mut Luck) -> Self {
        Self::settled(self.landed(luck))
    }
}

/// Decides what of the unsynced reaches the platter.
#[derive(Debug, Clone)]
pub struct Luck {
    noise: Noise,
    /// Out of 256.
    odds: u64,
    pub(super) ordered_names: bool,
}

impl Luck {
    /// Nothing lands that was not synced.
    pub fn none() -> Self {
        Self { noise: Noise::new(0), odds: 0, ordered_names: false }
    }

    /// Everything lands, as if only the process had died.
    pub fn all() -> Self {
        Self { noise: Noise::new(0), odds: 256, ordered_names: false }
    }

    /// A random share lands, any of it without the rest. Directory operations keep their order with every other seed.
    pub fn of(seed: u64) -> Self {
        let mut noise = Noise::new(seed);
        let odds = [8, 64, 128, 192, 248].get(noise.below(5) as usize).copied().unwrap_or(128);
        Self { ordered_names: noise.below(2) == 0, noise, odds }
    }

    pub(super) fn lands(&mut self) -> bool {
        self.noise.below(256) < self.odds
    }

    /// Picks one of `count` states that followed each other.
    pub(super) fn pick(&mut self, count: usize) -> usize {
        match self.odds {
            0 => 0,
            256.. => count.saturating_sub(1),
            _ => self.noise.below(count as u64) as usize,
        }
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.noise.below(end)
    }
}
