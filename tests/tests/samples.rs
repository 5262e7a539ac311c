//! The samples under `deploy/` are taken by the programs that they are for.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::Path;

fn sample(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/config").join(name))
        .unwrap()
}

#[test]
fn the_agents() {
    countersign_agent::Config::parse(&sample("agent.toml")).unwrap();
}

#[test]
fn the_gateways() {
    countersign_gateway::config::GatewayConfig::parse(&sample("gateway.toml")).unwrap();
}
