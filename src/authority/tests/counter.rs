//! The rollback counter in a real TPM: what a disk that was rolled back as a whole doesn't take along.
#[cfg(test)]
mod support;

use countersign_authority::config::{Config, RollbackCounter as Wanted, Store};
use countersign_authority::counter::{CounterFault, RollbackCounter};
use countersign_authority::serve::{ServeError, Serving, StartError};
use countersign_core::leaf::record::{Heartbeat, HeartbeatReason};
use countersign_core::leaf::{Kind, Leaf};
use countersign_fixture::SwTpm;
use countersign_hsm::tpm::Counter;
use std::path::{Path, PathBuf};
use support::with_house;

const AUTH: [u8; 32] = [9; 32];

/// The counter's values that the log tells of, in order.
#[cfg(test)]
fn told(config: &Config) -> Vec<u64> {
    let reader = config.store.place(&config.origin).open_reader().unwrap();
    let leaves = reader.leaves(0, 512).unwrap();
    let leaves = leaves.iter().map(|bytes| Leaf::parse(bytes).unwrap());
    leaves
        .filter(|leaf| leaf.kind == Kind::Heartbeat)
        .filter_map(|leaf| match Heartbeat::parse(&leaf.body).unwrap().0 {
            HeartbeatReason::Counter { value, .. } => Some(value),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

#[cfg(test)]
async fn refusal(config: &Config) -> CounterFault {
    match Serving::start(config.clone()).await {
        Err(ServeError::Start(StartError::Counter(fault))) => fault,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("started"),
    }
}

/// Serves and stops, by when the counter was raised.
#[cfg(test)]
async fn serve_once(config: &Config) {
    let before = told(config).len();
    Serving::start(config.clone()).await.unwrap().stop().await;
    assert!(told(config).len() > before, "the counter was never told");
}

/// A house whose authority is stopped, and a counter for it in a TPM of its own.
#[cfg(test)]
fn with_counter(name: &str, work: impl AsyncFnOnce(PathBuf, Config)) {
    with_house(
        name,
        |_| (),
        async |house| {
            let mut config = house.config.clone();
            house.serving.stop().await;
            let tpm = SwTpm::start_own();
            let wanted = Wanted { tcti: tpm.tcti(), nv_index: Wanted::NV_INDEX };
            config.rollback_counter = Some(wanted.clone());
            assert!(matches!(refusal(&config).await, CounterFault::NotMade(_)));
            RollbackCounter::make(&wanted, &config.rollback_counter_path(), AUTH, false).unwrap();
            work(house.scratch, config).await;
        },
    );
}

#[cfg(test)]
fn device(config: &Config, auth: [u8; 32]) -> Counter {
    let wanted = config.rollback_counter.as_ref().unwrap();
    Counter::new(&wanted.tcti, wanted.nv_index, auth)
}

/// Notes that somebody might write beside a store that doesn't hold what they say.
#[cfg(test)]
fn forged() -> Vec<String> {
    let auth = "09".repeat(32);
    let mut notes = vec!["{}".to_owned(), format!(r#"{{"auth":"{}"}}"#, "08".repeat(32))];
    notes.push(format!(r#"{{"auth":"{auth}"}}"#));
    notes.extend([0, 1, 7, 100_000].map(|leaf| format!(r#"{{"auth":"{auth}","leaf":{leaf}}}"#)));
    notes
}

#[cfg(test)]
async fn no_note_helps(config: &Config) {
    for forged in forged() {
        std::fs::write(config.rollback_counter_path(), &forged).unwrap();
        let fault = refusal(config).await;
        let expected = matches!(
            fault,
            CounterFault::RolledBack { .. }
                | CounterFault::LeafMissing(_)
                | CounterFault::NotTold(_)
                | CounterFault::Device(_)
                | CounterFault::Malformed(_)
        );
        assert!(expected, "{forged}: {fault}");
    }
    std::fs::remove_file(config.rollback_counter_path()).unwrap();
    assert!(matches!(refusal(config).await, CounterFault::NotMade(_)));
}

#[test]
fn a_disk_rolled_back_as_a_whole_is_found_by_the_counter_and_no_note_helps() {
    let name = "a_disk_rolled_back_as_a_whole_is_found_by_the_counter_and_no_note_helps";
    with_counter(name, async |scratch, config| {
        let disk = config.state_dir.clone();
        let (unused, backup, newest) = (scratch.join("unused"), scratch.join("old"), scratch.join("newest"));
        copy(&disk, &unused);
        serve_once(&config).await;
        serve_once(&config).await;
        let values = told(&config);
        assert!(values.is_sorted() && values.len() >= 2, "{values:?}");
        let value = device(&config, AUTH).value().unwrap();
        assert_eq!(value.as_ref(), values.last());
        copy(&disk, &backup);
        serve_once(&config).await;
        copy(&disk, &newest);

        copy(&backup, &disk);
        let rolled_back = refusal(&config).await;
        assert!(
            matches!(rolled_back, CounterFault::RolledBack { told, value: now } if Some(told) == value && now > told),
            "{rolled_back}"
        );
        no_note_helps(&config).await;
        // A disk from before the counter's first leaf, too: that nothing was told is the TPM's word, not the note's.
        copy(&unused, &disk);
        assert!(matches!(refusal(&config).await, CounterFault::NotTold(_)));
        no_note_helps(&config).await;
        copy(&newest, &disk);
        serve_once(&config).await;
    });
}

#[test]
fn a_signature_that_a_power_cut_took_along_is_no_rollback() {
    let name = "a_signature_that_a_power_cut_took_along_is_no_rollback";
    with_counter(name, async |_, config| {
        serve_once(&config).await;
        // Signatures are attached without a sync: of what was signed last, a power cut leaves the body.
        let Store::Sqlite { path } = &config.store else { panic!("the house keeps its log in a file") };
        let store = rusqlite::Connection::open(path).unwrap();
        let newest = "DELETE FROM signature WHERE size = (SELECT max(size) FROM head)";
        assert_eq!(store.execute(newest, []).unwrap(), 1);
        drop(store);
        serve_once(&config).await;
    });
}

#[test]
fn a_foreign_raise_or_another_tpm_is_refused_until_an_operator_decides() {
    let name = "a_foreign_raise_or_another_tpm_is_refused_until_an_operator_decides";
    with_counter(name, async |_, mut config| {
        let (wanted, note) = (config.rollback_counter.clone().unwrap(), config.rollback_counter_path());
        assert!(matches!(RollbackCounter::make(&wanted, &note, AUTH, false), Err(CounterFault::Made(_))));
        serve_once(&config).await;
        // Somebody else raises it: from then on it can't be told from a rollback.
        device(&config, AUTH).raise().unwrap();
        assert!(matches!(refusal(&config).await, CounterFault::RolledBack { .. }));
        let last = *told(&config).last().unwrap();
        RollbackCounter::make(&wanted, &note, [7; 32], true).unwrap();
        serve_once(&config).await;
        assert!(*told(&config).last().unwrap() > last, "a new counter begins above the old one");

        // Without its TPM, or with another one, it doesn't start.
        let other = SwTpm::start_own();
        config.rollback_counter = Some(Wanted { tcti: other.tcti(), ..wanted.clone() });
        assert!(matches!(refusal(&config).await, CounterFault::Device(_)));
        config.rollback_counter = Some(Wanted { nv_index: 0x0180_0001, ..wanted.clone() });
        assert!(matches!(refusal(&config).await, CounterFault::Device(_)));
        config.rollback_counter = Some(wanted);
        serve_once(&config).await;
    });
}
