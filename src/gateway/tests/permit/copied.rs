use countersign_gateway::admit::Permit;

fn copy(permit: &Permit) -> Permit {
    *permit
}

fn main() {
    let _ = copy;
}
