//! How much goes through: many small transactions, and results that are large.

use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use casemate_tests::noise::Noise;
use casemate_tests::process::{nothing, run};
use casemate_tests::raw_pg::RawPg;
use casemate_tests::raw_pg::message::query;
use casemate_tests::scale::MIB;

use super::course::{Course, Way};
use super::{Samples, full, rounds, rows};
use crate::measures::PATIENCE;
use crate::{Plan, say};

/// How pgbench speaks.
pub(super) const MODES: [&str; 3] = ["simple", "extended", "prepared"];

/// Clients at once: more than there are cores, and the number that the commits of a journal are shared by.
pub(super) const MANY: u32 = 16;

/// `pgbench -S`: select-only transactions per second (`pg-tps`), and CPU of what stands between, per transaction, where there
/// are many clients (`pg-cpu`).
pub(crate) fn transactions(plan: &Plan, noise: &mut Noise) -> Result<()> {
    let ways = full(plan);
    let course = Course::start(&ways)?;
    course.fill_accounts()?;
    for clients in [1, MANY] {
        for mode in MODES {
            if clients < MANY && !plan.wants("pg-tps") {
                continue;
            }
            let all = rounds(plan, noise, &course, &ways, |way| pgbench(plan, &course, way, clients, mode))?;
            let name = format!("pg {mode}, {clients} client{}", if clients == 1 { "" } else { "s" });
            if plan.wants("pg-tps") {
                all.print(&name, "tps", |way| against_pgbouncer(&all, way))?;
            }
            if plan.wants("pg-cpu") && clients == MANY {
                let mut line = format!("{:<28}", format!("{name}, CPU"));
                for way in all.others() {
                    let each = all.middle(way, |sample| sample.cpu / sample.pieces.max(1.0) * 1e6).unwrap_or(0.0);
                    line += &format!("   {} {each:.1} µs", way.name());
                }
                say(&(line + " per transaction"))?;
            }
        }
    }
    Ok(())
}

fn against_pgbouncer(all: &Samples, way: Way) -> Option<String> {
    let theirs = all.figure(Way::Pgbouncer).filter(|_| way != Way::Pgbouncer)?;
    Some(format!("{:.2} of pgbouncer's", all.figure(way)? / theirs))
}

/// Runs pgbench once and returns transactions per second and how many there were. Logins are not in the first, and are in
/// the CPU time of what stands between.
pub(super) fn pgbench(plan: &Plan, course: &Course, way: Way, clients: u32, mode: &str) -> Result<(f64, f64)> {
    let mut command = course.program(way, "pgbench")?;
    command.args(["-nS", "-M", mode, "-c", &clients.to_string(), "-j", &clients.min(2).to_string()]);
    let done = run(command.args(["-T", &plan.seconds.to_string()]), nothing(), PATIENCE)?.ok()?;
    let out = done.out();
    let number = |before: &str| -> Result<f64> {
        let rest = out.split_once(before).with_context(|| out.clone())?.1;
        Ok(rest.split([' ', '/', '\n']).next().unwrap_or_default().parse()?)
    };
    Ok((number("tps = ")?, number("transactions actually processed: ")?))
}

/// COPY out by psql, which throws it away.
pub(crate) fn copy(plan: &Plan, noise: &mut Noise) -> Result<()> {
    let sql = format!("copy ({}) to stdout", rows::select(plan.copy_mib * MIB / rows::ROW_LEN));
    large(plan, noise, &format!("pg COPY out of {} MiB", plan.copy_mib), |course, way| {
        let mut psql = course.program(way, "psql")?;
        let status = psql.args(["-Xqc", &sql]).stdin(Stdio::null()).stdout(Stdio::null()).status()?;
        ensure!(status.success(), "the COPY failed");
        Ok(())
    })
}

/// A SELECT of many rows by a client that counts them and keeps none: psql would be slower than all that is measured.
pub(crate) fn select(plan: &Plan, noise: &mut Noise) -> Result<()> {
    let sql = query(rows::select(plan.rows).as_bytes());
    large(plan, noise, &format!("pg SELECT of {} rows", plan.rows), |course, way| {
        let mut client = RawPg::login(&course.access(way)?)?;
        client.send(&sql)?;
        let mut seen = 0;
        loop {
            match client.discard()?.0 {
                b'D' => seen += 1,
                b'Z' => break,
                _ => {}
            }
        }
        ensure!(seen == plan.rows, "{seen} rows came");
        Ok(())
    })
}

fn large(plan: &Plan, noise: &mut Noise, name: &str, work: impl Fn(&Course, Way) -> Result<()>) -> Result<()> {
    let course = Course::start(&plan.pg_ways)?;
    course.fill_rows()?;
    let all = rounds(plan, noise, &course, &plan.pg_ways, |way| {
        let start = Instant::now();
        work(&course, way)?;
        Ok((start.elapsed().as_secs_f64(), 1.0))
    })?;
    all.print(name, "s", |way| Some(format!("{:.1} CPU s", all.middle(way, |sample| sample.cpu)?)))
}
