//! Compares what both outside systems hold with what one loop over the transfers says, and looks at the savepoints.

use crate::outside::{Row, names};
use crate::{Error, TRANSFERS, transfer};
use crash_inject::contract::Audit;
use std::collections::BTreeMap;
use std::path::Path;
use thalweg_storage::inspect;
use thalweg_storage::io::{DiskHandle, StdDisk};

/// Account and number of the booking.
type Place = (u64, u64);

/// Everything in `dir`, of a job that is done.
pub fn audit(dir: &Path) -> Result<Audit, Error> {
    let mut audit = Audit::default();
    let ledger = dir.join("ledger");
    for left in names(&ledger.join("open"))? {
        complain(&mut audit, &format!("transaction {left} is neither committed nor rolled back"));
    }
    audit_rows(&ledger.join("committed"), order_of_transaction, &mut audit)?;
    audit_rows(&dir.join("archive"), order_of_epoch, &mut audit)?;
    audit_savepoints(&dir.join("savepoints"), &mut audit)?;
    Ok(audit)
}

/// `<job>+<uid>+<subtask>+<attempt>+<run>+<sequence>`: attempts come one after another, and so do a subtask's transactions.
fn order_of_transaction(name: &str) -> Option<(u64, u64)> {
    let parts: Vec<_> = name.split('+').collect();
    let [_, _, _, attempt, _, sequence] = parts[..] else { return None };
    Some((attempt.parse().ok()?, sequence.parse().ok()?))
}

/// `<epoch>-<subtask>-<run>`.
fn order_of_epoch(name: &str) -> Option<(u64, u64)> {
    let (epoch, _) = name.split_once('-').filter(|_| !name.contains('.'))?;
    Some((epoch.parse().ok()?, 0))
}

fn audit_rows(
    dir: &Path,
    order: impl Fn(&str) -> Option<(u64, u64)>,
    audit: &mut Audit,
) -> Result<(), Error> {
    let (mut balances, mut numbers): (BTreeMap<Place, u64>, BTreeMap<u64, u64>) = Default::default();
    let mut totals: BTreeMap<u64, u64> = BTreeMap::new();
    for (account, amount) in (0..TRANSFERS).map(transfer) {
        let (number, total) = (numbers.entry(account).or_default(), totals.entry(account).or_default());
        *number += 1;
        *total += amount;
        balances.insert((account, *number), *total);
    }
    let mut files = Vec::new();
    for name in names(dir)? {
        match order(&name) {
            Some(place) => files.push((place, name)),
            None => complain(audit, &format!("{name} is left over")),
        }
    }
    files.sort();
    let mut found: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for (_, name) in files {
        for line in std::fs::read_to_string(dir.join(&name))?.lines() {
            match row(line) {
                Some((account, number, balance)) if balances.get(&(account, number)) == Some(&balance) => {
                    found.entry(account).or_default().push(number);
                }
                _ => complain(audit, &format!("{name}: {line}")),
            }
        }
    }
    for (account, expected) in numbers {
        audit.add(Audit::of_sequence(found.remove(&account).unwrap_or_default(), expected));
    }
    Ok(())
}

fn row(line: &str) -> Option<Row> {
    let mut numbers = line.split(',').map(|number| number.parse().ok());
    match (numbers.next()?, numbers.next()?, numbers.next()?, numbers.next()) {
        (Some(account), Some(number), Some(balance), None) => Some((account, number, balance)),
        _ => None,
    }
}

/// A savepoint that has a manifest is complete, and whole.
fn audit_savepoints(dir: &Path, audit: &mut Audit) -> Result<(), Error> {
    let disk = DiskHandle::new(StdDisk::start(1)?);
    for name in names(dir).unwrap_or_default() {
        let path = dir.join(name);
        if !path.join("MANIFEST").exists() {
            continue;
        }
        let problems = match inspect::open(&disk, &path) {
            Ok(savepoint) => {
                let report = inspect::verify(&disk, &savepoint)?;
                report.problems.iter().map(|problem| problem.error.to_string()).collect()
            }
            Err(error) => vec![error.to_string()],
        };
        problems.iter().for_each(|problem| complain(audit, &format!("{}: {problem}", path.display())));
    }
    Ok(())
}

fn complain(audit: &mut Audit, what: &str) {
    eprintln!("{what}");
    audit.corrupt += 1;
}
