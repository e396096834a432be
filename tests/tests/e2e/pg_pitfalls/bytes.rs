//! Bytes that are no UTF-8: nothing on the way may repair them.

use casemate_tests::pg_client::PgRoute;
use casemate_tests::raw_pg::message::{bind, copy_data, copy_done, describe, execute, parse, query, sync};
use casemate_tests::raw_pg::{RawPg, tags};

use super::{first_value, sqlstate};
use crate::pg_clients::lab;

/// Latin-1, a lone continuation, an overlong form, a surrogate: all of it allowed in an SQL_ASCII database.
const ODD: &[u8] = b"\xe9\x80\xc0\xaf\xed\xa0\x80\xff";

#[test]
fn sql_that_is_not_utf_8_passes_byte_by_byte() {
    let lab = lab();
    let target = lab.postgres().unwrap();
    target.sql("postgres", "create database ascii encoding 'SQL_ASCII' template template0 locale 'C'").unwrap();
    for route in PgRoute::ALL {
        let access = lab.pg_access(route).unwrap().database("ascii");
        let (mut client, greeting) = RawPg::login_as(&access, casemate_tests::raw_pg::VERSION_3_0, &[]).unwrap();
        assert!(greeting.parameters.contains(&("server_encoding".to_owned(), "SQL_ASCII".to_owned())));
        client.query("set client_encoding to 'SQL_ASCII'").unwrap();

        let wrap = |before: &[u8], after: &[u8]| [before, ODD, after].concat();
        let frames = client.query(wrap(b"select '", b"'")).unwrap();
        assert_eq!(first_value(&frames).unwrap(), ODD, "{route:?}");
        // In a name, in an error, in a column's heading.
        let frames = client.query(wrap(b"select 1 as \"", b"\" from \"\xff\"")).unwrap();
        assert_eq!(sqlstate(&frames).unwrap(), "42P01");
        let contains = |payload: &[u8], part: &[u8]| payload.windows(part.len()).any(|window| window == part);
        assert!(contains(&frames[0].payload, b"relation \"\xff\" does not exist"), "{route:?} {frames:?}");
        let frames = client.query(wrap(b"select 1 as \"", b"\"")).unwrap();
        assert!(contains(&frames[0].payload, ODD));

        // As parameter, in a statement's name, in COPY.
        let mut wire = parse("", &wrap(b"select $1, '", b"'"), &[25]);
        wire.extend([bind("", "", &[Some(ODD)]), describe(b'P', ""), execute("", 0), sync()].concat());
        client.send(&wire).unwrap();
        let frames = client.read_to(b'Z').unwrap();
        assert_eq!(tags(&frames), "12TDCZ");
        assert_eq!(frames[3].row(), [Some(ODD.to_vec()), Some(ODD.to_vec())]);
        client.query("create temp table t (x text)").unwrap();
        client.send(&[query(b"copy t from stdin"), copy_data(&wrap(b"", b"\n")), copy_done()].concat()).unwrap();
        client.read_to(b'Z').unwrap();
        let frames = client.query("copy t to stdout").unwrap();
        assert_eq!((tags(&frames).as_str(), &frames[1].payload), ("HdcCZ", &wrap(b"", b"\n")));
    }
}
