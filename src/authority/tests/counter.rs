//! The rollback counter in a real TPM: what a disk that was rolled back as a whole doesn't take along.
#[cfg(test)]
mod support;

use countersign_authority::config::{Config, RollbackCounter as Wanted};
use countersign_authority::counter::{CounterFault, RollbackCounter};
use countersign_authority::serve::{ServeError, Serving, StartError};
use countersign_core::leaf::record::{Heartbeat, HeartbeatReason};
use countersign_core::leaf::{Kind, Leaf};
use countersign_fixture::{PATIENCE, SwTpm};
use countersign_hsm::tpm::Counter;
use std::path::Path;
use std::time::{Duration, Instant};
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

/// Serves until the counter was raised, and stops, which raises it again.
#[cfg(test)]
async fn serve_once(config: &Config) {
    let before = told(config).len();
    let serving = Serving::start(config.clone()).await.unwrap();
    let began = Instant::now();
    while told(config).len() == before {
        assert!(began.elapsed() < PATIENCE, "the counter was never told");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    serving.stop().await;
}

#[test]
fn a_disk_rolled_back_as_a_whole_is_found_by_the_counter_and_no_note_helps() {
    let name = "a_disk_rolled_back_as_a_whole_is_found_by_the_counter_and_no_note_helps";
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
            let note = config.rollback_counter_path();
            let made = RollbackCounter::make(&wanted, &note, AUTH, false).unwrap();
            serve_once(&config).await;
            serve_once(&config).await;
            assert_eq!(told(&config), [made + 1, made + 2, made + 3, made + 4]);
            let device = Counter::new(&wanted.tcti, wanted.nv_index, AUTH);
            assert_eq!(device.value().unwrap(), made + 4);

            let (disk, backup, newest) =
                (config.state_dir.clone(), house.scratch.join("old"), house.scratch.join("newest"));
            copy(&disk, &backup);
            serve_once(&config).await;
            copy(&disk, &newest);
            copy(&backup, &disk);
            let rolled_back = refusal(&config).await;
            assert!(
                matches!(rolled_back, CounterFault::RolledBack { told, value } if told == made + 4 && value == made + 6),
                "{rolled_back}"
            );
            // Whatever the note says, the leaf isn't there.
            for forged in [
                format!(r#"{{"auth":"{}","value":{}}}"#, "09".repeat(32), made + 6),
                format!(r#"{{"auth":"{}","value":{},"leaf":1}}"#, "09".repeat(32), made + 6),
                format!(r#"{{"auth":"{}","value":{},"leaf":100000}}"#, "09".repeat(32), made + 6),
                format!(r#"{{"auth":"{}","value":{}}}"#, "08".repeat(32), made + 6),
                "{}".to_owned(),
            ] {
                std::fs::write(&note, &forged).unwrap();
                let fault = refusal(&config).await;
                let expected = matches!(
                    fault,
                    CounterFault::RolledBack { .. }
                        | CounterFault::LeafMissing(_)
                        | CounterFault::Device(_)
                        | CounterFault::Malformed(_)
                );
                assert!(expected, "{forged}: {fault}");
            }
            std::fs::remove_file(&note).unwrap();
            assert!(matches!(refusal(&config).await, CounterFault::NotMade(_)));
            // The newest disk is the right one, also with a note that forgot where its leaf is.
            copy(&newest, &disk);
            std::fs::write(&note, format!(r#"{{"auth":"{}","value":0}}"#, "09".repeat(32))).unwrap();
            serve_once(&config).await;
        },
    );
}

#[test]
fn a_crash_between_leaf_and_raise_is_no_rollback_and_a_foreign_raise_is() {
    let name = "a_crash_between_leaf_and_raise_is_no_rollback_and_a_foreign_raise_is";
    with_house(
        name,
        |_| (),
        async |house| {
            let mut config = house.config.clone();
            house.serving.stop().await;
            let tpm = SwTpm::start_own();
            let wanted = Wanted { tcti: tpm.tcti(), nv_index: Wanted::NV_INDEX };
            config.rollback_counter = Some(wanted.clone());
            let note = config.rollback_counter_path();
            RollbackCounter::make(&wanted, &note, AUTH, false).unwrap();
            assert!(matches!(RollbackCounter::make(&wanted, &note, AUTH, false), Err(CounterFault::Made(_))));
            serve_once(&config).await;
            let device = Counter::new(&wanted.tcti, wanted.nv_index, AUTH);

            // Somebody else raises it: from then on it can't be told from a rollback, and an operator decides.
            device.raise().unwrap();
            assert!(matches!(refusal(&config).await, CounterFault::RolledBack { .. }));
            let value = RollbackCounter::make(&wanted, &note, [7; 32], true).unwrap();
            assert!(value > *told(&config).last().unwrap(), "a new counter begins above the old one");
            serve_once(&config).await;

            // Without its TPM, or with another one, it doesn't start.
            let other = SwTpm::start_own();
            config.rollback_counter = Some(Wanted { tcti: other.tcti(), ..wanted.clone() });
            assert!(matches!(refusal(&config).await, CounterFault::Device(_)));
            config.rollback_counter = Some(Wanted { nv_index: 0x0180_0001, ..wanted.clone() });
            assert!(matches!(refusal(&config).await, CounterFault::Device(_)));
            config.rollback_counter = Some(wanted);
            serve_once(&config).await;
        },
    );
}
