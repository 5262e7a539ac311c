use countersign_gateway::admit::Permit;

fn main() {
    let _permit: Permit = Default::default();
}
