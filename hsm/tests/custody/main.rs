//! Tests of this crate through its public face, over real devices; one binary, so that the devices' libraries are linked once.
#[cfg(test)]
mod pkcs11;
#[cfg(test)]
mod pkcs11_faults;
#[cfg(test)]
mod software;
#[cfg(test)]
mod support;
#[cfg(test)]
#[cfg(feature = "tpm")]
mod tpm;
#[cfg(test)]
mod worker;
