//! Writing in whole pages from page-aligned memory, so that the kernel can take the bytes to the disk from where they lie,
//! past its page cache.

use std::fmt;
use std::io;

use crate::fs::File;

/// What filesystems and disks read and write at least, in bytes.
pub const PAGE_LEN: usize = 4096;

/// The most that is written at once. More makes no disk quicker, and whoever writes waits for it.
const CHUNK_LEN: usize = 1024 * 1024;

/// Page-aligned memory to write from.
pub(crate) struct Pages {
    /// A page longer than what is used of it, which begins where a page does.
    memory: Vec<u8>,
}

impl fmt::Debug for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pages").finish_non_exhaustive()
    }
}

impl Pages {
    pub(crate) fn new() -> Self {
        Self { memory: Vec::new() }
    }

    /// Writes `parts`, one behind the other, from where a page begins, and zeros up to the end of the last page.
    pub(crate) fn write<'a>(
        &mut self,
        file: &dyn File,
        mut offset: u64,
        parts: impl IntoIterator<Item = &'a [u8]>,
    ) -> io::Result<()> {
        if self.memory.is_empty() {
            self.memory = vec![0; CHUNK_LEN + PAGE_LEN];
        }
        let skew = self.memory.as_ptr().align_offset(PAGE_LEN);
        let chunk = self.memory.get_mut(skew..).and_then(|from| from.get_mut(..CHUNK_LEN));
        let chunk = chunk.ok_or_else(|| io::Error::other("no page-aligned memory"))?;
        let mut filled = 0;
        for mut part in parts {
            while !part.is_empty() {
                let (now, later) = part.split_at(part.len().min(CHUNK_LEN - filled));
                if let Some(room) = chunk.get_mut(filled..filled + now.len()) {
                    room.copy_from_slice(now);
                }
                (filled, part) = (filled + now.len(), later);
                if filled == CHUNK_LEN {
                    file.write_at(offset, chunk)?;
                    (offset, filled) = (offset + CHUNK_LEN as u64, 0);
                }
            }
        }
        let end = filled.next_multiple_of(PAGE_LEN);
        if let Some(padding) = chunk.get_mut(filled..end) {
            padding.fill(0);
        }
        match chunk.get(..end) {
            Some(rest) if end > 0 => file.write_at(offset, rest),
            _ => Ok(()),
        }
    }
}

/// What a file that grows has on its last page, as long as that is not full.
#[derive(Debug, Clone, Default)]
pub(crate) struct LastPage(Vec<u8>);

impl LastPage {
    /// Takes what comes behind it.
    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        let len = (self.0.len() + bytes.len()) % PAGE_LEN;
        match bytes.len().checked_sub(len) {
            Some(before) => {
                self.0.clear();
                self.0.extend_from_slice(bytes.get(before..).unwrap_or_default());
            }
            None => self.0.extend_from_slice(bytes),
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for LastPage {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl From<LastPage> for Vec<u8> {
    fn from(last: LastPage) -> Self {
        last.0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Takes whole pages from page-aligned memory only, as some filesystems do.
    #[derive(Debug, Default)]
    struct Strict(Mutex<Vec<u8>>);

    impl File for Strict {
        fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
            assert_eq!((offset as usize % PAGE_LEN, bytes.len() % PAGE_LEN), (0, 0));
            assert_eq!(bytes.as_ptr().align_offset(PAGE_LEN), 0);
            let mut content = self.0.lock().unwrap();
            let end = offset as usize + bytes.len();
            let len = content.len().max(end);
            content.resize(len, 0xee);
            content[offset as usize..end].copy_from_slice(bytes);
            Ok(())
        }
        fn sync_data(&self) -> io::Result<()> {
            Ok(())
        }
        fn size(&self) -> io::Result<u64> {
            Ok(self.0.lock().unwrap().len() as u64)
        }
        fn set_len(&self, len: u64) -> io::Result<()> {
            self.0.lock().unwrap().truncate(len as usize);
            Ok(())
        }
        fn forget(&self) {}
    }

    fn bytes(len: usize, first: usize) -> Vec<u8> {
        (first..first + len).map(|at| (at * 31 % 251) as u8).collect()
    }

    #[test]
    fn parts_of_any_length_become_whole_pages() {
        let mut pages = Pages::new();
        for lens in [&[0][..], &[1], &[PAGE_LEN], &[100, PAGE_LEN, 5], &[CHUNK_LEN], &[7, 2 * CHUNK_LEN + 9, 1], &[]] {
            let file = Strict::default();
            let parts: Vec<Vec<u8>> =
                lens.iter().scan(0, |at, len| Some(bytes(*len, std::mem::replace(at, *at + len)))).collect();
            pages.write(&file, PAGE_LEN as u64, parts.iter().map(Vec::as_slice)).unwrap();
            let len: usize = lens.iter().sum();
            let content = file.0.into_inner().unwrap();
            if len == 0 {
                assert!(content.is_empty(), "nothing is no page");
                continue;
            }
            let (written, padding) = content[PAGE_LEN..].split_at(len);
            assert!(written == bytes(len, 0), "{lens:?}");
            assert!(padding.len() < PAGE_LEN && padding.iter().all(|byte| *byte == 0), "{lens:?}");
        }
    }

    #[test]
    fn the_last_page_is_what_is_behind_the_last_full_one() {
        let mut last = LastPage::default();
        let mut len = 0;
        for piece in [0, 10, 4000, 85, 1, 1, PAGE_LEN - 1, PAGE_LEN, 3 * PAGE_LEN + 7, 0, 4089, 50_000] {
            last.extend(&bytes(piece, len));
            len += piece;
            let full = len / PAGE_LEN * PAGE_LEN;
            assert!(last.bytes() == bytes(len - full, full), "{piece} bytes up to {len}");
        }
    }
}
