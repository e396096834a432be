//! pgbench: TPC-B in all three ways to send a query, and what it leaves in the tables.

use super::{compare, lab};

#[test]
fn pgbench_leaves_the_same_in_every_mode() {
    let lab = lab();
    compare(&lab, "pgbench", |way| {
        super::run(
            way.program("pgbench").args(["-iq", "-s", "1"]),
            casemate_tests::process::nothing(),
            super::PATIENCE,
        )
        .unwrap()
        .ok()
        .unwrap();
        for mode in ["simple", "extended", "prepared"] {
            let mut bench = way.program("pgbench");
            // The same seed gives each client the same transactions; sums do not depend on their order.
            bench.args(["-n", "-c", "4", "-j", "2", "-t", "100", "--random-seed=17", "-M", mode]);
            let done =
                super::run(&mut bench, casemate_tests::process::nothing(), super::PATIENCE).unwrap().ok().unwrap();
            assert!(done.out().contains("number of transactions actually processed: 400/400"), "{}", done.out());
            let sums = "select (select sum(abalance * aid) from pgbench_accounts), (select sum(tbalance * tid) from \
                        pgbench_tellers), (select count(*) from pgbench_history)";
            way.note(mode, &way.sql(sums));
        }
    });
}
