use countersign_gateway::admit::Permit;

fn forge(other: Permit) -> Permit {
    Permit { expires_ms: u64::MAX, ..other }
}

fn main() {
    let _ = forge;
}
