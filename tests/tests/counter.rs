//! The rollback counter, with processes: made by command, killed at any moment, refused when the disk went back.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use countersign_fixture::ManagedChild;
use countersign_tests::{Deployment, SignerKind};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file()) {
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn an_authority_killed_at_any_moment_of_its_start_starts_again_and_an_old_disk_does_not() {
    let mut deployment = Deployment::bare(SignerKind::Tpm);
    deployment.authority.take().unwrap().stop(Duration::from_secs(60));
    let config = deployment.path("authority/authority.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let tcti = deployment.signer_tpm.as_ref().unwrap().tcti();
    std::fs::write(&config, format!("{text}\n[rollback_counter]\ntcti = \"{tcti}\"\n")).unwrap();
    let make =
        || deployment.countersign().args(["authority", "counter", "--config"]).arg(&config).output().unwrap();
    let made = make();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    assert!(String::from_utf8_lossy(&made.stdout).starts_with("counter 0x0180c516 made"));
    let again = make();
    assert!(!again.status.success());
    assert!(String::from_utf8_lossy(&again.stderr).contains("a counter was made already"));

    // The counter's first raise is no moment to be killed in: only the TPM knows its first value.
    deployment.start_authority();
    deployment.authority.take().unwrap().stop(Duration::from_secs(60));
    // The kills fall before, within and after the leaf, the note and the raise.
    for kill in 0..16 {
        let mut command = deployment.countersign();
        command.args(["authority", "serve", "--config"]).arg(&config);
        let mut authority = ManagedChild::spawn("authority", command);
        let late = Duration::from_millis(20 * (kill + 1));
        let began = std::time::Instant::now();
        authority.wait_until(Duration::from_secs(60), || began.elapsed() >= late);
        authority.kill();
        // What a resource manager does for a client that died: this TPM has none.
        let flushed = Command::new("tpm2_flushcontext").args(["-T", &tcti, "-t"]).output().unwrap();
        assert!(flushed.status.success(), "{}", String::from_utf8_lossy(&flushed.stderr));
    }
    deployment.start_authority();
    deployment.authority.take().unwrap().stop(Duration::from_secs(60));
    let (disk, old, new) =
        (deployment.path("authority"), deployment.path("old-disk"), deployment.path("new-disk"));
    copy(&disk, &old);
    deployment.start_authority();
    deployment.authority.take().unwrap().stop(Duration::from_secs(60));
    copy(&disk, &new);
    copy(&old, &disk);
    let serve =
        deployment.countersign().args(["authority", "serve", "--config"]).arg(&config).output().unwrap();
    assert!(!serve.status.success());
    let said = String::from_utf8_lossy(&serve.stderr);
    assert!(said.contains("the log was rolled back: it tells of counter value"), "{said}");
    copy(&new, &disk);
    deployment.start_authority();
    deployment.authority.take().unwrap().stop(Duration::from_secs(60));
    deployment.audit("verify").expect("the log verifies");
}
