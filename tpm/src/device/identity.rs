//! What a device's identity key (IDevID) does: be certified, and sign.
//!
//! Comes in: a key of the TPM, a message, qualifying data. Goes out: the attestation of the AK, or the key's own signature. Refused: a key whose
//! policy this file can't satisfy.
//!
//! TPM2_Certify takes the ADMIN role of the certified key (TPM 2.0 Part 3, 18.2), which adminWithPolicy binds to the key's policy; TPM2_Sign takes the USER
//! role, which a key without userWithAuth binds to it too. The policies of the TCG's templates (TPM 2.0 Keys for Device Identity and Attestation, 7.3.6) are
//! PolicyOR of: PolicySecret(endorsement); the same and PolicyCommandCode(TPM2_Certify); the same and PolicyCommandCode(TPM2_ActivateCredential);
//! PolicyAuthorizeNV of an index whose own policy is the first.

use tss_esapi::Context;
use tss_esapi::constants::CommandCode;
use tss_esapi::interface_types::session_handles::{AuthSession, PolicySession};
use tss_esapi::structures::{Digest, DigestList, SignatureScheme};
use tss_esapi::traits::Marshall;

use super::evidence::{attested, data, no_ticket};
use super::{Attested, DeviceError, HostTpm, KeyId};
use crate::algorithm::{EccCurve, HashAlg};
use crate::key::PublicKey;
use crate::public::{Attributes, Public, Scheme};
use crate::wire::Writer;

/// Command codes. TPM 2.0 Part 2, 6.5.2.
const CC_ACTIVATE_CREDENTIAL: u32 = 0x147;
const CC_CERTIFY: u32 = 0x148;
const CC_POLICY_SECRET: u32 = 0x151;
const CC_POLICY_COMMAND_CODE: u32 = 0x16c;
const CC_POLICY_OR: u32 = 0x171;
const CC_POLICY_AUTHORIZE_NV: u32 = 0x192;
const RH_ENDORSEMENT: u32 = 0x4000_000b;
/// Attributes of the templates' policy index: written by policy and whole, read by all, without dictionary attack protection, written once.
const POLICY_INDEX_ATTRIBUTES: u32 = 0x220f_1008;

/// What a policy session must have done before a key takes its authorization.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Way {
    /// Nothing: the empty password.
    Password,
    /// The command alone.
    Command,
    /// The endorsement hierarchy's password, the command unless it is the USER role, then the branches.
    Branches(Vec<Vec<u8>>),
}

impl HostTpm {
    /// TPM2_Certify of a device's key by `ak`.
    ///
    /// # Errors
    /// [`DeviceError::Policy`] if the key's policy is none of the TCG's, and what the TPM says.
    pub fn certify_device_key(
        &mut self,
        subject: KeyId,
        ak: KeyId,
        extra: &[u8],
    ) -> Result<Attested, DeviceError> {
        let (data, public) = (data(extra)?, self.public(subject)?.clone());
        let way = way(&public, Attributes::ADMIN_WITH_POLICY, true)?;
        self.with_keys([subject, ak], |tpm, [subject, ak]| {
            tpm.authorized(&public, &way, Some(CommandCode::Certify), |tpm, session| {
                let sessions = (Some(session), Some(AuthSession::Password), None);
                let made = tpm.call_with("Certify", sessions, |context| {
                    context.certify(subject.into(), ak, data.clone(), SignatureScheme::Null)
                })?;
                attested("Certify", &made)
            })
        })
    }

    /// TPM2_Sign by a device's key over a message: TPMT_SIGNATURE, by the key's own scheme or else ECDSA or RSASSA.
    ///
    /// # Errors
    /// As [`HostTpm::certify_device_key`].
    pub fn sign_with_device_key(&mut self, key: KeyId, message: &[u8]) -> Result<Vec<u8>, DeviceError> {
        let sign = |error| DeviceError::tss("Sign", error);
        let public = self.public(key)?.clone();
        let (hash, scheme) = scheme(&public);
        let digest = Digest::try_from(hash.digest(message)).map_err(sign)?;
        let ticket = no_ticket().map_err(sign)?;
        let way = way(&public, Attributes::USER_WITH_AUTH, false)?;
        self.with_keys([key], |tpm, [key]| {
            tpm.authorized(&public, &way, None, |tpm, session| {
                let command =
                    |context: &mut Context| context.sign(key, digest.clone(), scheme, ticket.clone());
                let made = tpm.call_with("Sign", (Some(session), None, None), command)?;
                made.marshall().map_err(sign)
            })
        })
    }

    /// Runs `body` with a session that satisfies the key.
    fn authorized<T>(
        &mut self,
        public: &Public,
        way: &Way,
        command: Option<CommandCode>,
        body: impl FnOnce(&mut Self, AuthSession) -> Result<T, DeviceError>,
    ) -> Result<T, DeviceError> {
        if *way == Way::Password {
            return body(self, AuthSession::Password);
        }
        self.with_policy(public.name_alg(), |tpm, session| {
            let policy = PolicySession::try_from(session)
                .map_err(|error| DeviceError::tss("StartAuthSession", error))?;
            let none = (None, None, None);
            if matches!(way, Way::Branches(_)) {
                tpm.policy_secret(policy)?;
            }
            if let Some(command) = command {
                tpm.call_with("PolicyCommandCode", none, |context| {
                    context.policy_command_code(policy, command)
                })?;
            }
            if let Way::Branches(branches) = way {
                let mut list = DigestList::new();
                for branch in branches {
                    let bytes = |error| DeviceError::tss("PolicyOR", error);
                    list.add(Digest::try_from(branch.clone()).map_err(bytes)?).map_err(bytes)?;
                }
                tpm.call_with("PolicyOR", none, |context| context.policy_or(policy, list.clone()))?;
            }
            body(tpm, session)
        })
    }
}

/// How the role is authorized that `bit` binds to the policy if it is `set`.
fn way(public: &Public, bit: u32, set: bool) -> Result<Way, DeviceError> {
    if public.attributes().has(bit) != set {
        return Ok(Way::Password);
    }
    let hash = public.name_alg();
    let admin = set;
    if admin && public.auth_policy() == extended(hash, None, &[CC_POLICY_COMMAND_CODE, CC_CERTIFY]) {
        return Ok(Way::Command);
    }
    let branches = template_branches(hash)?;
    let joined = hash.digest_parts(&[&zeros(hash), &CC_POLICY_OR.to_be_bytes(), &branches.concat()]);
    if public.auth_policy() == joined { Ok(Way::Branches(branches)) } else { Err(DeviceError::Policy) }
}

fn zeros(hash: HashAlg) -> Vec<u8> {
    vec![0; hash.digest_len()]
}

/// policyDigest extended by words. TPM 2.0 Part 1, 19.7.
fn extended(hash: HashAlg, from: Option<&[u8]>, words: &[u32]) -> Vec<u8> {
    let start = from.map_or_else(|| zeros(hash), <[u8]>::to_vec);
    let words: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
    hash.digest_parts(&[&start, &words])
}

/// The branches of the templates' policy for keys with this name algorithm.
fn template_branches(hash: HashAlg) -> Result<Vec<Vec<u8>>, DeviceError> {
    let index: u32 = match hash {
        HashAlg::Sha256 => 0x01c9_0010,
        HashAlg::Sha384 => 0x01c9_0011,
        HashAlg::Sha512 => 0x01c9_0012,
        HashAlg::Sha1 => return Err(DeviceError::Policy),
    };
    // TPM2_PolicySecret without policyRef extends once more with nothing. TPM 2.0 Part 3, 23.4.
    let secret = extended(hash, None, &[CC_POLICY_SECRET, RH_ENDORSEMENT]);
    let secret = extended(hash, Some(&secret), &[]);
    let command = |code| extended(hash, Some(&secret), &[CC_POLICY_COMMAND_CODE, code]);
    // TPMS_NV_PUBLIC: its data are an algorithm number and a digest. TPM 2.0 Part 2, 13.5; Name: Part 1, 16.
    let size = u16::try_from(hash.digest_len()).unwrap_or(u16::MAX).saturating_add(2);
    let public = Writer::new().u32(index).u16(hash.id()).u32(POLICY_INDEX_ATTRIBUTES);
    let public = public.tpm2b(&secret)?.u16(size).into_bytes();
    let name = [hash.id().to_be_bytes().as_slice(), &hash.digest(&public)].concat();
    let by_index = hash.digest_parts(&[&zeros(hash), &CC_POLICY_AUTHORIZE_NV.to_be_bytes(), &name]);
    Ok(vec![secret.clone(), command(CC_CERTIFY), command(CC_ACTIVATE_CREDENTIAL), by_index])
}

/// The hash to sign with, and the scheme if the key has none of its own.
fn scheme(public: &Public) -> (HashAlg, SignatureScheme) {
    use tss_esapi::interface_types::algorithm::HashingAlgorithm;
    use tss_esapi::structures::HashScheme;
    match (public.scheme(), public.key()) {
        (Some(Scheme::RsaSsa(hash) | Scheme::RsaPss(hash) | Scheme::Ecdsa(hash)), _) => {
            (hash, SignatureScheme::Null)
        }
        (_, PublicKey::Ecc { curve: EccCurve::P384, .. }) => {
            let hash_scheme = HashScheme::new(HashingAlgorithm::Sha384);
            (HashAlg::Sha384, SignatureScheme::EcDsa { hash_scheme })
        }
        (_, PublicKey::Ecc { .. }) => {
            let hash_scheme = HashScheme::new(HashingAlgorithm::Sha256);
            (HashAlg::Sha256, SignatureScheme::EcDsa { hash_scheme })
        }
        (_, PublicKey::Rsa { .. }) => {
            let hash_scheme = HashScheme::new(HashingAlgorithm::Sha256);
            (HashAlg::Sha256, SignatureScheme::RsaSsa { hash_scheme })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The digests that the TCG's document lists (7.3.6.6), as programs in use have them.
    #[test]
    fn the_branches_join_to_the_policies_of_the_templates() {
        for (hash, listed) in [
            (HashAlg::Sha256, "ad6b3a2284fd698a0710bf5cc1b9bdf15e2532e3f601fa4b93a6a8fa8de579ea"),
            (
                HashAlg::Sha384,
                "4db1aa836d0b5615df6ee53a40ef70c61c217f4303d44695925972bc927006cfa5cbdf6dc18c4dbe329b2f1542c3dd33",
            ),
        ] {
            let branches = template_branches(hash).unwrap();
            let joined = hash.digest_parts(&[&zeros(hash), &CC_POLICY_OR.to_be_bytes(), &branches.concat()]);
            assert_eq!(data_encoding::HEXLOWER.encode(&joined), listed);
        }
        assert!(template_branches(HashAlg::Sha1).is_err());
    }
}
