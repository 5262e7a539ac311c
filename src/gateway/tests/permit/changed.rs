use countersign_gateway::admit::Permit;

fn prolong(permit: &mut Permit) {
    permit.expires_ms = u64::MAX;
}

fn main() {
    let _ = prolong;
}
