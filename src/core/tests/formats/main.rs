//! Formats: one encoding each, and published vectors.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test stops at the first surprise")]

mod attested;
mod bodies;
mod cose;
mod devices;
mod enrolled;
mod log;
mod outcomes;
mod refused;
mod samples;
mod vectors;
