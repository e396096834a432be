//! Journal files: preallocated, zeroed, recycled. The only files that are synced on the hot path.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::fs::{File, Fs};
use crate::pages::PAGE_LEN;

use super::pool::Pool;
use super::record::{self, RecordHead};

/// Journal files are at most this long: a start reads what is left of them.
const FILE_LEN_MAX: u64 = 64 * 1024 * 1024;
/// And at least this long: a turn and the room to close every session must fit beside each other.
const FILE_LEN_MIN: u64 = 8 * 1024 * 1024;
/// Zeros are written in pieces of this size.
const MIB: u64 = 1024 * 1024;
/// Where records begin.
pub const FILE_HEAD_LEN: u64 = 4096;
const FILE_MAGIC: [u8; 4] = *b"CMJ1";

/// What a journal file begins with, little-endian.
///
/// | offset | bytes | field |
/// |---|---|---|
/// | 0 | 4 | magic `CMJ1` |
/// | 4 | 4 | CRC-32C of the bytes from 8 to 56 |
/// | 8 | 8 | number of the file |
/// | 16 | 8 | salt of its records |
/// | 24 | 8 | lsn of its first record |
/// | 32 | 16 | boot id |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileHead {
    /// Number of the file on this node, ascending.
    pub file_no: u64,
    /// Salt of its records.
    pub salt: u64,
    /// Number of its first record.
    pub first_lsn: u64,
    /// The start of the daemon that wrote it.
    pub boot_id: [u8; 16],
}

impl FileHead {
    fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(48);
        body.extend_from_slice(&self.file_no.to_le_bytes());
        body.extend_from_slice(&self.salt.to_le_bytes());
        body.extend_from_slice(&self.first_lsn.to_le_bytes());
        body.extend_from_slice(&self.boot_id);
        let mut out = FILE_MAGIC.to_vec();
        out.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
        out.extend_from_slice(&body);
        out
    }

    /// Reads the head of a journal file; `None` where there is none.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let body = bytes.get(8..48)?;
        let crc = u32::from_le_bytes(*bytes.get(4..8)?.first_chunk()?);
        if bytes.get(..4)? != FILE_MAGIC || crc32c::crc32c(body) != crc {
            return None;
        }
        let number = |at: usize| body.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
        Some(Self {
            file_no: number(0)?,
            salt: number(8)?,
            first_lsn: number(16)?,
            boot_id: *body.get(24..)?.first_chunk()?,
        })
    }
}

/// Returns how long the files of a journal are that may take `journal_bytes_max`: a quarter, so that one can be written,
/// one lie ready and two be materialised.
pub fn file_len(journal_bytes_max: u64) -> u64 {
    (journal_bytes_max / 4).clamp(FILE_LEN_MIN, FILE_LEN_MAX) / MIB * MIB
}

/// Returns the path of a journal file.
pub fn path(dir: &Path, file_no: u64) -> PathBuf {
    dir.join(format!("{file_no:012}.jnl"))
}

/// The writing end of the journal.
#[derive(Debug)]
pub struct JournalWriter {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    boot_id: [u8; 16],
    file: Arc<dyn File>,
    head: FileHead,
    offset: u64,
    next_lsn: u64,
    buffer: Vec<u8>,
    /// Where the last buffered record begins.
    last_record: usize,
    pool: Arc<Pool>,
}

impl JournalWriter {
    /// Begins a journal of this start, with files numbered from `file_no` and records from `next_lsn`.
    ///
    /// # Errors
    /// The files cannot be made: no space, no permission, a failing disk.
    pub fn create(
        fs: Arc<dyn Fs>,
        pool: Arc<Pool>,
        boot_id: [u8; 16],
        file_no: u64,
        next_lsn: u64,
    ) -> io::Result<Self> {
        let dir = pool.dir().to_owned();
        let head = new_head(file_no, next_lsn, boot_id)?;
        let file = adopt(fs.as_ref(), &dir, &pool.take()?, &head)?;
        Ok(Self {
            fs,
            dir,
            boot_id,
            file,
            head,
            offset: FILE_HEAD_LEN,
            next_lsn,
            buffer: Vec::new(),
            last_record: 0,
            pool,
        })
    }

    /// Returns the number of the current file.
    pub fn file_no(&self) -> u64 {
        self.head.file_no
    }

    /// Returns how many bytes of records still fit the current file.
    pub fn room(&self) -> u64 {
        self.file_len().saturating_sub(self.offset).saturating_sub(self.buffer.len() as u64)
    }

    /// Returns how long each file is.
    pub fn file_len(&self) -> u64 {
        self.pool.file_len()
    }

    /// Buffers a record; nothing reaches the disk before [`JournalWriter::write`].
    pub fn append(&mut self, head: &RecordHead, payload: &[u8]) {
        self.last_record = self.buffer.len();
        head.append(&mut self.buffer, self.head.salt, self.next_lsn, payload);
        self.next_lsn += 1;
    }

    /// Returns how many bytes are buffered.
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// Hands what is buffered to the operating system, as one turn: it survives the death of this process, and a start
    /// after a crash finds all of it or none.
    ///
    /// # Errors
    /// The write failed. The journal must not be used any more: what is on disk is unknown.
    pub fn write(&mut self) -> io::Result<()> {
        if let Some(last) = self.buffer.get_mut(self.last_record..) {
            record::end_turn(last, self.head.salt);
        }
        let len = self.buffer.len();
        self.buffer.resize(len.saturating_add(self.padding()), 0);
        self.file.write_at(self.offset, &self.buffer)?;
        self.offset += len as u64;
        self.buffer.clear();
        // One bulk transfer should not keep its peak for ever.
        self.buffer.shrink_to(1024 * 1024);
        Ok(())
    }

    /// Returns how many zeros to write behind what is buffered, so that a page that it begins is written whole. Otherwise, where
    /// the page is not in memory, the kernel reads what lies behind from the disk first, while everybody waits: for nothing.
    fn padding(&self) -> usize {
        let end = self.offset.saturating_add(self.buffer.len() as u64);
        let page_end = end.next_multiple_of(PAGE_LEN as u64);
        let begins = page_end.saturating_sub(PAGE_LEN as u64) >= self.offset;
        let padding = page_end.min(self.file_len()).saturating_sub(end);
        if begins { usize::try_from(padding).unwrap_or_default() } else { 0 }
    }

    /// Makes everything written so far durable.
    ///
    /// # Errors
    /// The sync failed. It is never retried: the kernel may have dropped the pages and marked them clean.
    pub fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Goes on in the next file. The current one is written and synced first, so that a reader never finds a later file
    /// without the end of an earlier one. Waits where every file is still needed: that slows the sessions down.
    ///
    /// # Errors
    /// Any step failed, or no file can be had; the caller decides by the kind of error what is still possible.
    pub fn switch(&mut self) -> io::Result<()> {
        self.write()?;
        self.sync()?;
        let prepared = self.pool.take()?;
        let head = new_head(self.head.file_no + 1, self.next_lsn, self.boot_id)?;
        // Should that fail for want of space, what ends the sessions still goes into the file at hand, under its own head.
        self.file = adopt(self.fs.as_ref(), &self.dir, &prepared, &head)?;
        (self.head, self.offset) = (head, FILE_HEAD_LEN);
        Ok(())
    }
}

fn new_head(file_no: u64, first_lsn: u64, boot_id: [u8; 16]) -> io::Result<FileHead> {
    let mut salt = [0; 8];
    getrandom::fill(&mut salt)?;
    Ok(FileHead { file_no, salt: u64::from_le_bytes(salt), first_lsn, boot_id })
}

/// Gives a prepared file its head and its name.
fn adopt(fs: &dyn Fs, dir: &Path, prepared: &Path, head: &FileHead) -> io::Result<Arc<dyn File>> {
    let file = fs.open(prepared)?;
    file.write_at(0, &head.encode())?;
    file.sync_data()?;
    fs.rename(prepared, &path(dir, head.file_no))?;
    fs.sync_dir(dir)?;
    Ok(file)
}

/// A journal file that was read back, with where its records end.
#[derive(Debug)]
pub struct ScannedFile {
    /// Its head.
    pub head: FileHead,
    /// Its path.
    pub path: PathBuf,
    /// Its bytes up to the end of the last whole turn.
    pub bytes: Vec<u8>,
}

impl ScannedFile {
    /// Returns the records in order.
    pub fn records(&self) -> impl Iterator<Item = record::Record<'_>> {
        let mut at = FILE_HEAD_LEN as usize;
        std::iter::from_fn(move || {
            let record = record::parse(self.bytes.get(at..)?, self.head.salt)?;
            at += record.padded_len;
            Some(record)
        })
    }
}

/// Reads all journal files in `dir`, in order, up to the last whole turn before a record that is missing or damaged.
///
/// Returns the files that hold records, the number of the next record, and the number of the next file. Files without a
/// valid head, with one for another name, or behind a hole, are returned as `leftover`: they hold nothing that was ever acknowledged.
///
/// # Errors
/// A file cannot be read.
pub fn scan(fs: &dyn Fs, dir: &Path) -> io::Result<Scan> {
    let mut names: Vec<String> = fs.list(dir)?.into_iter().filter(|name| name.ends_with(".jnl")).collect();
    names.sort_unstable();
    let mut out = Scan { files: Vec::new(), leftover: Vec::new(), next_lsn: 0, next_file_no: 0 };
    let mut expected = None;
    let mut broken = false;
    for name in names {
        let path = dir.join(&name);
        let number = name.strip_suffix(".jnl").and_then(|stem| stem.parse::<u64>().ok());
        out.next_file_no = out.next_file_no.max(number.map_or(0, |number| number + 1));
        let mut bytes = fs.read(&path)?;
        let head = FileHead::parse(&bytes);
        if head.as_ref().is_some_and(|head| Some(head.file_no) != number) {
            // It was to be used again, got its new head and not its new name. It says nothing of those that are in use.
            out.leftover.push(path);
            continue;
        }
        let head = head.filter(|head| !broken && expected.is_none_or(|expected| expected == head.first_lsn));
        let Some(head) = head else {
            broken |= expected.is_some();
            out.leftover.push(path);
            continue;
        };
        let (mut lsn, mut at) = (head.first_lsn, FILE_HEAD_LEN as usize);
        let (mut next_lsn, mut end) = (lsn, at);
        while let Some(record) = bytes.get(at..).and_then(|rest| record::parse(rest, head.salt)) {
            if record.lsn != lsn {
                break;
            }
            lsn += 1;
            at += record.padded_len;
            if record.ends_turn {
                (next_lsn, end) = (lsn, at);
            }
        }
        bytes.truncate(end);
        expected = Some(next_lsn);
        out.next_lsn = next_lsn;
        out.files.push(ScannedFile { head, path, bytes });
    }
    Ok(out)
}

/// What [`scan`] found.
#[derive(Debug)]
pub struct Scan {
    /// Files with records, in order.
    pub files: Vec<ScannedFile>,
    /// Files without acknowledged records.
    pub leftover: Vec<PathBuf>,
    /// The number of the next record.
    pub next_lsn: u64,
    /// The number of the next file.
    pub next_file_no: u64,
}

impl Scan {
    /// Returns the index of the first leaf in the journal.
    pub fn first_leaf(&self) -> Option<u64> {
        let mut records = self.files.iter().flat_map(ScannedFile::records);
        records.find(|record| record.kind == record::RecordKind::Leaf).map(|record| record.first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::OsFs;
    use crate::transcript::block::SessionId;

    fn journal(dir: &Path) -> JournalWriter {
        let pool = Arc::new(Pool::new(Arc::new(OsFs), dir.to_owned(), FILE_LEN_MIN, 8));
        let worker = Arc::clone(&pool);
        std::thread::spawn(move || worker.run(|_| {}));
        JournalWriter::create(Arc::new(OsFs), pool, [1; 16], 0, 0).unwrap()
    }

    #[test]
    fn four_files_fit_the_limit_wherever_it_lies() {
        for (limit, len) in [(0, 8), (32, 8), (64, 16), (101, 25), (256, 64), (1024, 64), (16 << 20, 64)] {
            assert_eq!(file_len(limit * MIB), len * MIB, "{limit} MiB");
        }
    }

    #[test]
    fn records_are_read_back_across_files() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = journal(dir.path());
        for file in 0..3u8 {
            writer.append(&RecordHead::block(SessionId([file; 16]), 1), &[file; 100]);
            writer.append(&RecordHead::leaf(u64::from(file)), b"leaf");
            if file < 2 {
                writer.switch().unwrap();
            }
        }
        writer.write().unwrap();
        let found = scan(&OsFs, dir.path()).unwrap();
        assert_eq!((found.next_lsn, found.next_file_no, found.files.len()), (6, 3, 3));
        let lsns: Vec<_> =
            found.files.iter().flat_map(|file| file.records().map(|record| record.lsn).collect::<Vec<_>>()).collect();
        assert_eq!(lsns, [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn nothing_behind_a_hole_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = journal(dir.path());
        writer.append(&RecordHead::leaf(0), b"first");
        writer.write().unwrap();
        writer.append(&RecordHead::leaf(1), b"second");
        writer.switch().unwrap();
        writer.append(&RecordHead::leaf(2), b"third");
        writer.write().unwrap();
        let first = path(dir.path(), 0);
        let file = OsFs.open(&first).unwrap();
        file.write_at(FILE_HEAD_LEN + record::record_len(5) as u64 + 20, b"x").unwrap();
        let found = scan(&OsFs, dir.path()).unwrap();
        assert_eq!((found.next_lsn, found.files.len(), found.leftover.len()), (1, 1, 1));
    }

    #[test]
    fn a_page_is_written_whole_by_the_first_record_in_it_and_no_page_before() {
        let dir = tempfile::tempdir().unwrap();
        let stale = vec![0xaa; usize::try_from(FILE_LEN_MIN).unwrap()];
        std::fs::write(dir.path().join("000000000000.new"), &stale).unwrap();
        let pool = Arc::new(Pool::new(Arc::new(OsFs), dir.path().to_owned(), FILE_LEN_MIN, 8));
        pool.adopt_leftovers(Vec::new()).unwrap();
        let mut writer = JournalWriter::create(Arc::new(OsFs), pool, [1; 16], 0, 0).unwrap();
        // Where the zeros end that follow the records: at the end of a page, and of no page that holds nothing yet.
        let mut check = |payload_len: usize| {
            writer.append(&RecordHead::leaf(writer.next_lsn), &vec![1; payload_len]);
            writer.write().unwrap();
            let (end, page_end) = (writer.offset as usize, writer.offset.next_multiple_of(PAGE_LEN as u64) as usize);
            let bytes = std::fs::read(path(dir.path(), 0)).unwrap();
            assert!(bytes[end..page_end].iter().all(|byte| *byte == 0), "{payload_len} bytes up to {end}");
            assert!(bytes[page_end..].iter().all(|byte| *byte == 0xaa), "{payload_len} bytes up to {end}");
        };
        // A few to a page, one over many, and one that ends where a page does.
        [100, 3000, 3000, 20_000, 100].into_iter().for_each(&mut check);
        let room = |offset: u64| (offset.next_multiple_of(PAGE_LEN as u64) - offset) as usize - record::HEAD_LEN;
        let offset = FILE_HEAD_LEN
            + [100, 3000, 3000, 20_000, 100].map(|len| record::record_len(len) as u64).iter().sum::<u64>();
        [room(offset), 1].into_iter().for_each(&mut check);
        assert_eq!(scan(&OsFs, dir.path()).unwrap().next_lsn, 7);
    }

    #[test]
    fn a_file_that_was_about_to_be_used_again_takes_nothing_from_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = journal(dir.path());
        for index in 0..3 {
            writer.append(&RecordHead::leaf(index), b"leaf");
            if index < 2 {
                writer.switch().unwrap();
            }
        }
        writer.write().unwrap();
        // The first is needed no more. It gets its next head, and a crash comes before its next name.
        let next = new_head(3, writer.next_lsn, [1; 16]).unwrap();
        OsFs.open(&path(dir.path(), 0)).unwrap().write_at(0, &next.encode()).unwrap();
        let found = scan(&OsFs, dir.path()).unwrap();
        let indexes = found.files.iter().flat_map(|file| file.records().map(|record| record.first).collect::<Vec<_>>());
        assert!(indexes.eq([1, 2]));
        assert_eq!((found.next_lsn, found.next_file_no, found.leftover), (3, 3, vec![path(dir.path(), 0)]));
    }

    #[test]
    fn a_file_that_cannot_be_taken_leaves_the_one_at_hand_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = journal(dir.path());
        writer.append(&RecordHead::leaf(0), b"first");
        // Where the next is to be, there is something that cannot be renamed over.
        std::fs::create_dir_all(path(dir.path(), 1).join("x")).unwrap();
        writer.switch().unwrap_err();
        writer.append(&RecordHead::leaf(1), b"second");
        writer.write().unwrap();
        std::fs::remove_dir_all(path(dir.path(), 1)).unwrap();
        let found = scan(&OsFs, dir.path()).unwrap();
        assert_eq!((found.next_lsn, found.files.len()), (2, 1));
    }

    #[test]
    fn a_recycled_file_does_not_give_up_its_old_records() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = journal(dir.path());
        for index in 0..10 {
            writer.append(&RecordHead::leaf(index), b"old");
        }
        let mut written = 0;
        while path(dir.path(), 0).exists() {
            writer.switch().unwrap();
            writer.pool.give(path(dir.path(), written));
            written += 1;
        }
        writer.append(&RecordHead::leaf(10), b"new");
        writer.write().unwrap();
        let found = scan(&OsFs, dir.path()).unwrap();
        assert_eq!(found.next_lsn, 11);
        let indexes = found.files.iter().flat_map(|file| file.records().map(|record| record.first).collect::<Vec<_>>());
        assert!(indexes.eq([10]));
    }
}
