//! Who is at the other end: mapped only as the rules say, and only while it is the same process.

use std::os::unix::net::UnixStream;
use std::process::Command;

use countersign_core::digest::sha256;

use super::*;

fn rule(text: &str) -> RuntimeRule {
    let head = "authority = \"https://a\"\ntrust_bundle = \"b\"\nek_profile = \"p256\"\n[[runtime]]\nname = \"n\"\nactions = [\"exec\"]\naudiences = [\"g\"]\nmax_ttl_secs = 9\n";
    crate::config::Config::parse(&format!("{head}{text}")).unwrap().rules.remove(0)
}

fn me() -> Peer {
    let (socket, _other) = UnixStream::pair().unwrap();
    Peer::of(&socket).unwrap()
}

#[test]
fn the_kernel_tells_user_group_and_process() {
    let peer = me();
    assert_eq!(peer.pid, i32::try_from(std::process::id()).unwrap());
    assert_eq!(peer.uid, nix::unistd::geteuid().as_raw());
    assert_eq!(peer.gid, nix::unistd::getegid().as_raw());
}

#[test]
fn a_rule_matches_only_if_everything_it_names_does() {
    let peer = me();
    let (uid, gid) = (peer.uid, peer.gid);
    let exe = std::env::current_exe().unwrap();
    let digest = sha256(&std::fs::read(&exe).unwrap());
    let exe = exe.display();
    let check = |text: &str, matches: bool| {
        let rules = [rule(text)];
        assert_eq!(peer.rule(&rules).is_ok(), matches, "{text}");
    };
    check(&format!("uid = {uid}"), true);
    check(&format!("uid = {}", uid + 1), false);
    check(&format!("gid = {gid}"), true);
    check(&format!("uid = {uid}\ngid = {}", gid + 1), false);
    check(&format!("executable = {{ path = \"{exe}\" }}"), true);
    check("executable = { path = \"/bin/sh\" }", false);
    check("executable = { path = \"/no/such/file\" }", false);
    check(&format!("executable = {{ sha256 = \"{digest}\" }}"), true);
    check(&format!("executable = {{ sha256 = \"{}\" }}", sha256(b"")), false);
    check(&format!("executable = {{ path = \"{exe}\", sha256 = \"{}\" }}", sha256(b"")), false);
    check(&format!("executable = {{ path = \"/bin/sh\", sha256 = \"{digest}\" }}"), false);
}

#[test]
fn the_first_rule_that_matches_counts_and_no_rule_is_no() {
    let peer = me();
    let mut rules = vec![rule(&format!("uid = {}", peer.uid + 1)), rule(&format!("uid = {}", peer.uid))];
    rules.push(rule(&format!("gid = {}", peer.gid)));
    assert!(std::ptr::eq(peer.rule(&rules).unwrap(), &raw const rules[1]));
    assert!(matches!(peer.rule(&[]), Err(PeerError::NoRule { .. })));
}

#[test]
fn a_name_alone_does_not_make_a_program() {
    // A path that leads to the same file is the same program, whatever it is called; a copy under another name isn't.
    let root = tempfile::tempdir().unwrap();
    let link = root.path().join("link");
    std::os::unix::fs::symlink(std::env::current_exe().unwrap(), &link).unwrap();
    let peer = me();
    assert!(peer.rule(&[rule(&format!("executable = {{ path = \"{}\" }}", link.display()))]).is_ok());
    let copy = root.path().join("copy");
    std::fs::copy("/bin/sh", &copy).unwrap();
    assert!(peer.rule(&[rule(&format!("executable = {{ path = \"{}\" }}", copy.display()))]).is_err());
}

#[test]
fn a_process_that_ended_or_became_another_is_refused() {
    let peer = me();
    let rules = [rule(&format!("uid = {}", peer.uid))];
    let mut child = Command::new("true").spawn().unwrap();
    let gone = Peer { pid: i32::try_from(child.id()).unwrap(), ..peer.clone() };
    child.wait().unwrap();
    assert!(matches!(gone.rule(&rules), Err(PeerError::Unseen { .. })));
    let reused = Peer { started: peer.started + 1, ..peer.clone() };
    assert!(matches!(reused.rule(&rules), Err(PeerError::Changed(_))));
    let other_user = Peer { uid: peer.uid + 1, ..peer.clone() };
    assert!(matches!(other_user.still(), Err(PeerError::Changed(_))));
    let other_group = Peer { gid: peer.gid + 1, ..peer };
    assert!(matches!(other_group.still(), Err(PeerError::Changed(_))));
}

#[test]
fn a_program_is_measured_as_the_caller_sees_and_may_run_it() {
    use crate::program::measure;
    use std::os::unix::fs::PermissionsExt as _;
    let root = tempfile::tempdir().unwrap();
    std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = root.path().join("program");
    std::fs::write(&path, b"bytes").unwrap();
    let peer = me();
    let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(0o700);
    assert_eq!(measure(&peer, &path).unwrap(), sha256(b"bytes"));
    mode(0o644);
    assert!(matches!(measure(&peer, &path), Err(ProgramError::NotExecutable)));
    // Another user's secret isn't hashed for this one.
    mode(0o700);
    let stranger = Peer { uid: peer.uid + 1, gid: peer.gid + 1, ..peer.clone() };
    assert!(matches!(measure(&stranger, &path), Err(ProgramError::NotExecutable)));
    mode(0o701);
    assert!(measure(&stranger, &path).is_ok());
    assert!(matches!(measure(&peer, root.path()), Err(ProgramError::NotAFile)));
    assert!(matches!(measure(&peer, Path::new("program")), Err(ProgramError::Relative)));
    assert!(matches!(measure(&peer, Path::new("/proc/self/exe")), Err(ProgramError::Read(_))));
    let fifo = root.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(matches!(measure(&peer, &fifo), Err(ProgramError::NotAFile)));
    let large = root.path().join("large");
    File::create(&large).unwrap().set_len(crate::MAX_PROGRAM_LEN + 1).unwrap();
    std::fs::set_permissions(&large, std::fs::Permissions::from_mode(0o700)).unwrap();
    assert!(matches!(measure(&peer, &large), Err(ProgramError::TooLarge)));
}

#[test]
fn a_process_name_with_parentheses_does_not_shift_the_start_time() {
    let started = start_time(i32::try_from(std::process::id()).unwrap()).unwrap();
    let root = tempfile::tempdir().unwrap();
    let odd = root.path().join("a) R 1 (b");
    std::os::unix::fs::symlink("/bin/sleep", &odd).unwrap();
    let mut child = Command::new(&odd).arg("60").spawn().unwrap();
    let found = start_time(i32::try_from(child.id()).unwrap());
    child.kill().unwrap();
    child.wait().unwrap();
    // Ticks since boot: started after this process and not long ago.
    assert!((started..started + 1_000_000).contains(&found.unwrap()));
}
