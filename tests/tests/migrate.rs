//! A log that outgrows its file: moved into a database by the command, verified, and served on.

use countersign_fixture::Postgres;
use countersign_tests::{Deployment, Program, Ran, SignerKind};

#[test]
fn a_log_moves_into_postgres_and_artifacts_go_on() {
    let mut deployment = Deployment::ready(SignerKind::Pkcs11);
    let program = Program::new();
    let canary = program.canary();
    let argv = [program.path(), &canary];
    deployment.ask("before", &["--ttl-secs", "120"], &argv).expect("artifact");
    let server = Postgres::new();
    let database = server.database();
    let host = server.socket_directory().display().to_string();
    let config = deployment.text("authority/authority.toml");
    let migrate = |deployment: &Deployment| {
        let mut command = deployment.countersign();
        command.args(["admin", "migrate", "sqlite-to-postgres", "--config", &config, "--postgres", &host]);
        Ran::of(command.args(["--postgres-database", &database, "--postgres-user", "postgres"]))
    };
    // While the authority serves, the file is its own.
    let refused = migrate(&deployment);
    assert!(refused.status != Some(0) && refused.err.contains("in use by another process"), "{refused:?}");
    let mut authority = deployment.authority.take().unwrap();
    authority.stop(countersign_fixture::PATIENCE);
    let out = migrate(&deployment).expect("migrate");
    assert!(out.contains("leaves moved and verified"), "{out}");
    let again = migrate(&deployment);
    assert!(again.status != Some(0) && again.err.contains("holds a store already"), "{again:?}");

    // The sentence before it names the section too.
    let section = out.rsplit_once("[store]").unwrap().1;
    let text = std::fs::read_to_string(&config).unwrap();
    let (before, rest) = text.split_once("[store]").unwrap();
    let after = rest.split_once("\n[").map_or("", |(_, after)| after);
    std::fs::write(&config, format!("{before}[store]{section}\n[{after}")).unwrap();
    deployment.postgres = Some(server);
    deployment.start_authority();
    deployment.wait_ready();
    deployment.exec("before", &argv).expect("an artifact from before runs");
    deployment.ask("after", &[], &argv).expect("artifact");
    deployment.exec("after", &argv).expect("run");
    assert_eq!(program.runs(), 2);
    deployment.audit("verify").expect("the log verifies");
    deployment.audit("replay").expect("every decision replays");
}
