use countersign_gateway::admit::Permit;

fn copy(permit: &Permit) -> Permit {
    permit.clone()
}

fn main() {
    let _ = copy;
}
