//! How fast the sequencer is. Printed, not asserted: run with `--release -- --nocapture throughput`.

use std::time::{Duration, Instant};

use super::super::{Append, Outcome};
use super::support::{Call, Rig, enrol, host};

/// Calls of `requests` requests each, `waiting` of them in the queue at a time, by one caller.
fn measure(calls: usize, requests: usize, waiting: usize) {
    let (rig, log) = Rig::begun();
    log.appended(enrol(1));
    let appends: Vec<Append> = (0..calls)
        .map(|call| {
            let mut append = Call::new(host(1), &format!("c{call}")).append();
            append.entries =
                (0..requests).map(|r| Call::new(host(1), &format!("c{call}.{r}")).entry()).collect();
            append
        })
        .collect();
    let before = log.sequencer.counts();
    let cpu = cpu_time();
    let began = Instant::now();
    let mut left = appends.into_iter();
    let mut pending = std::collections::VecDeque::new();
    loop {
        while pending.len() < waiting {
            let Some(append) = left.next() else { break };
            pending.push_back(log.sequencer.submit(append).unwrap());
        }
        let Some(first) = pending.pop_front() else { break };
        let Outcome::Appended(receipts) = first.wait().unwrap() else { panic!("not appended") };
        assert_eq!(receipts.leaves.len(), requests);
    }
    let (wall, cpu) = (began.elapsed(), cpu_time() - cpu);
    let after = log.sequencer.counts();
    let leaves = after.leaves - before.leaves;
    println!(
        "{calls} calls x {requests}, {waiting} waiting: {leaves} leaves in {} batches, {:.0} leaves/s, {:.1} us CPU/leaf (both threads)",
        after.batches - before.batches,
        leaves as f64 / wall.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / leaves as f64,
    );
    drop(rig);
}

fn cpu_time() -> Duration {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID).unwrap();
    Duration::new(time.tv_sec().unsigned_abs(), u32::try_from(time.tv_nsec()).unwrap())
}

#[test]
fn throughput() {
    measure(200, 1, 1);
    measure(4_000, 1, 2_000);
    measure(200, 64, 64);
}
