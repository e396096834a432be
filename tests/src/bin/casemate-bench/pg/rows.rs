//! Rows for what is large: always the same, 128 bytes each as COPY writes them, and no easier to compress than hexadecimal
//! digits are. The table is small enough to stay in the server's memory; who wants more of it than there is gets it again.

/// Rows of the table: 64 MiB of them.
const ROWS: u64 = 1 << 19;

/// Bytes of a row as COPY writes it: two numbers of seven digits, a text of 111, and what stands between and behind.
pub(crate) const ROW_LEN: u64 = 128;

/// The statement that makes the table.
pub(crate) fn table() -> String {
    format!(
        "create unlogged table lines as \
         select 1000000 + n as id, 1000000 + n * 7919 % 8999993 as customer, \
         md5('a' || n) || md5('b' || n) || md5('c' || n) || left(md5('d' || n), 15) as note \
         from generate_series(1::bigint, {ROWS}) n"
    )
}

/// The statement that asks for so many rows. The server finds each where it lies, and computes nothing.
pub(crate) fn select(rows: u64) -> String {
    let times = rows.div_ceil(ROWS) as usize;
    let all = vec!["select id, customer, note from lines"; times].join(" union all ");
    format!("select * from ({all}) every limit {rows}")
}
