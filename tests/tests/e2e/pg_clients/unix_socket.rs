//! tokio-postgres without TLS, through a Unix socket: the server's own straight, the front door's on the way through.

use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

use super::{Way, compare, lab};

#[test]
fn tokio_postgres_does_the_same_through_a_socket() {
    let lab = lab();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    compare(&lab, "tokio-postgres", |way| runtime.block_on(use_it(way)));
}

async fn use_it(way: &Way<'_>) {
    let access = way.lab.pg_access_by_socket(way.route).unwrap();
    let mut config = Config::new();
    config.host_path(&access.host).port(access.port).user(&access.user).password(&access.password).dbname("orders");
    let (mut client, connection) = config.connect(NoTls).await.unwrap();
    let driver = tokio::spawn(connection);

    client.batch_execute("create table things (id serial primary key, name text unique, data bytea)").await.unwrap();
    let put = client.prepare("insert into things (name, data) values ($1, $2) returning id").await.unwrap();
    // Sent without waiting for one another.
    let (data, none) = (&[0_u8, 255][..], None::<&[u8]>);
    let rows: [[&(dyn ToSql + Sync); 2]; 3] = [[&"a", &data], [&"b", &none], [&"a", &none]];
    let (a, b, c) = tokio::join!(
        client.query_one(&put, &rows[0]),
        client.query_one(&put, &rows[1]),
        client.query_one(&put, &rows[2]),
    );
    let refused = c.unwrap_err();
    way.note(
        "pipelined",
        &format!("{} {} {:?}", a.unwrap().get::<_, i32>(0), b.unwrap().get::<_, i32>(0), refused.code()),
    );

    let transaction = client.transaction().await.unwrap();
    let portal = transaction.bind("select n, repeat('x', n) from generate_series(1, 500) n", &[]).await.unwrap();
    let mut lens = Vec::new();
    loop {
        let rows = transaction.query_portal(&portal, 120).await.unwrap();
        if rows.is_empty() {
            break;
        }
        lens.push(rows.iter().map(|row| row.get::<_, &str>(1).len()).sum::<usize>());
    }
    way.note("a portal in parts", &format!("{lens:?}"));
    transaction.rollback().await.unwrap();

    way.note("simple", &simple(&client, "select 1; select 'two', null; update things set name = name").await);
    way.note(
        "an error",
        &client.query("select $1::int / 0", &[&1]).await.unwrap_err().as_db_error().unwrap().to_string(),
    );
    way.note("alive", &simple(&client, "select 'still here'").await);

    let token = client.cancel_token();
    let sleep = client.batch_execute("select pg_sleep(60)");
    let cancel = async {
        // The connection is driven on another thread meanwhile.
        let runs = tokio::task::block_in_place(|| way.lab.postgres().unwrap().comes_to_run(1, "select pg_sleep(60)"));
        assert!(runs.unwrap());
        token.cancel_query(NoTls).await.unwrap();
    };
    let (slept, ()) = tokio::join!(sleep, cancel);
    way.note("cancelled", &format!("{:?}", slept.unwrap_err().code()));
    way.note("after the cancel", &simple(&client, "select count(*) from things").await);
    drop(client);
    driver.await.unwrap().unwrap();
}

async fn simple(client: &Client, sql: &str) -> String {
    let messages = client.simple_query(sql).await.unwrap();
    let shown = messages.iter().map(|message| match message {
        SimpleQueryMessage::Row(row) => format!("{:?}", (0..row.len()).map(|at| row.get(at)).collect::<Vec<_>>()),
        SimpleQueryMessage::CommandComplete(count) => format!("done {count}"),
        _ => String::new(),
    });
    shown.collect::<Vec<_>>().join(" ")
}
