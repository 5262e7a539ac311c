use countersign_gateway::admit::{AdmissionInput, Permit, admit};

fn door(input: &AdmissionInput<'_>) -> Option<Permit> {
    admit(input).ok()
}

fn main() {
    let _ = door;
}
