//! Runs every fuzz target for a given time on all cores, without a fuzzing engine: seeds and random mutations, no coverage feedback.
//!
//! `fuzz [SECONDS [SEED]]`. `fuzz seeds DIRECTORY` writes the seeds as files instead, a corpus for the libFuzzer targets. Time is shared between the targets, each core takes one at a time. Prints what was tried for each target. An input that
//! panics or takes too long is written to `fuzz-TARGET.bin` in the working directory, and the exit status is 1.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for people")]

use countersign_tests::fuzz::{Finding, Session, TARGETS, Target, run, seeds};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

fn main() -> ExitCode {
    let given: Vec<String> = std::env::args().skip(1).collect();
    if let [word, directory] = given.as_slice()
        && word == "seeds"
    {
        return write_seeds(Path::new(directory));
    }
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<u64>());
    let (Ok(seconds), Ok(seed)) = (arguments.next().unwrap_or(Ok(3_600)), arguments.next().unwrap_or(Ok(1)))
    else {
        eprintln!("usage: fuzz [SECONDS [SEED]], fuzz seeds DIRECTORY");
        return ExitCode::from(2);
    };
    let seeds = seeds();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let targets = u32::try_from(TARGETS.len()).unwrap_or(u32::MAX);
    let share = Duration::from_secs(seconds).saturating_mul(u32::try_from(cores).unwrap_or(1)) / targets;
    println!("{} seeds, {cores} cores, {:.1} s for each target", seeds.len(), share.as_secs_f64());
    let next = AtomicUsize::new(0);
    let work = || {
        let mut findings = 0_usize;
        while let Some(target) = TARGETS.get(next.fetch_add(1, Ordering::Relaxed)) {
            findings += usize::from(!report(*target, run(*target, &seeds, share, seed)));
        }
        findings
    };
    let findings: usize = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(|worker| worker.join().unwrap_or(1)).sum()
    });
    println!("{findings} findings");
    ExitCode::from(u8::from(findings > 0))
}

fn write_seeds(directory: &Path) -> ExitCode {
    let written = std::fs::create_dir_all(directory).and_then(|()| {
        let seeds = seeds();
        for (number, seed) in seeds.iter().enumerate() {
            std::fs::write(directory.join(format!("{number:05}")), seed)?;
        }
        Ok(seeds.len())
    });
    match written {
        Ok(count) => {
            println!("{count} seeds in {}", directory.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{}: {error}", directory.display());
            ExitCode::FAILURE
        }
    }
}

fn report(target: Target, ran: Result<Session, Finding>) -> bool {
    match ran {
        Ok(session) => {
            println!("{:16} {:>12} inputs, slowest {:?}", target.name, session.inputs, session.slowest);
            true
        }
        Err(finding) => {
            let path = format!("fuzz-{}.bin", finding.target);
            let what = if finding.panicked { "panics" } else { "takes too long" };
            let kept = std::fs::write(&path, &finding.input);
            println!("{:16} {what}: {path} ({} bytes, {kept:?})", finding.target, finding.input.len());
            false
        }
    }
}
