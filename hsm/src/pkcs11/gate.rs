//! Lets calls into a module pass side by side, and lets the one who starts the module over pass alone: PKCS#11 leaves undefined what
//! C_Finalize does to calls in progress (PKCS #11 3.0, 5.4.2). Both ways wait for a bounded time only, since a call may hang.
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

#[derive(Default)]
pub(super) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    inside: usize,
    closed: bool,
}

/// One call may be made while this lives.
pub(super) struct Pass<'gate>(&'gate Gate);

/// No other call is in progress, and none begins, while this lives.
pub(super) struct Alone<'gate>(&'gate Gate);

impl Gate {
    /// Enters beside others; `None` when somebody is alone for longer than `patience`.
    pub(super) fn enter(&self, patience: Duration) -> Option<Pass<'_>> {
        let mut state = self.wait(self.lock(), patience, |state| !state.closed)?;
        state.inside += 1;
        Some(Pass(self))
    }

    /// Enters alone; `None` when the calls in progress do not end within `patience`.
    pub(super) fn alone(&self, patience: Duration) -> Option<Alone<'_>> {
        let start = Instant::now();
        let mut state = self.wait(self.lock(), patience, |state| !state.closed)?;
        state.closed = true;
        let closed = Alone(self);
        // On timeout `closed` is dropped, after the lock, which opens the gate again.
        let left = patience.saturating_sub(start.elapsed());
        let drained = self.wait(state, left, |state| state.inside == 0).is_some();
        drained.then_some(closed)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(
        &self,
        state: MutexGuard<'a, State>,
        patience: Duration,
        condition: impl Fn(&State) -> bool,
    ) -> Option<MutexGuard<'a, State>> {
        let (state, _) = self
            .changed
            .wait_timeout_while(state, patience, |state| !condition(state))
            .unwrap_or_else(PoisonError::into_inner);
        condition(&state).then_some(state)
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.inside = state.inside.saturating_sub(1);
        drop(state);
        self.0.changed.notify_all();
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.0.lock().closed = false;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(5);
    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn whoever_is_alone_keeps_others_out_and_waits_for_those_inside() {
        let gate = Gate::default();
        let (one, two) = (gate.enter(LONG).unwrap(), gate.enter(LONG).unwrap());
        assert!(gate.alone(SHORT).is_none(), "alone beside two calls");
        drop(one);
        assert!(gate.alone(SHORT).is_none(), "alone beside one call");
        drop(two);
        let alone = gate.alone(SHORT).unwrap();
        assert!(gate.enter(SHORT).is_none() && gate.alone(SHORT).is_none());
        drop(alone);
        assert!(gate.enter(SHORT).is_some());
    }

    #[test]
    fn a_failed_attempt_to_be_alone_leaves_the_gate_open() {
        let gate = Gate::default();
        let hung = gate.enter(LONG).unwrap();
        assert!(gate.alone(SHORT).is_none());
        assert!(gate.enter(SHORT).is_some());
        drop(hung);
        assert!(gate.alone(SHORT).is_some());
    }

    #[test]
    fn calls_waiting_at_the_gate_go_on_when_it_opens() {
        let gate = Gate::default();
        std::thread::scope(|scope| {
            let alone = gate.alone(LONG).unwrap();
            let waiting = scope.spawn(|| gate.enter(LONG).is_some());
            drop(alone);
            assert!(waiting.join().unwrap());
        });
    }
}
