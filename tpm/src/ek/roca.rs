//! The fingerprint of RSA keys that one manufacturer's library made from a small set (CVE-2017-15361).
//!
//! Comes in: a modulus. Goes out: whether it has the fingerprint. Such a modulus is, modulo each of the small primes below, a power of 65537;
//! a random one has that property by chance with a probability below 2^-27. The test proves nothing else of a key: keys can be weak otherwise.

/// Primes of the published test: those whose residues tell.
const PRIMES: [u32; 38] = [
    3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103,
    107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
];
const GENERATOR: u32 = 65_537;

/// Whether the modulus (big endian) has the fingerprint.
#[must_use]
pub fn has_roca_fingerprint(modulus: &[u8]) -> bool {
    !modulus.is_empty() && PRIMES.iter().all(|prime| is_power(remainder(modulus, *prime), *prime))
}

fn remainder(modulus: &[u8], prime: u32) -> u32 {
    modulus.iter().fold(0, |rest, byte| (rest * 256 + u32::from(*byte)) % prime)
}

/// Whether the residue is a power of the generator. The loop ends when the powers repeat, after less than `prime` steps.
fn is_power(residue: u32, prime: u32) -> bool {
    let generator = GENERATOR % prime;
    let mut power = 1;
    for _ in 0..prime {
        if power == residue {
            return true;
        }
        power = power * generator % prime;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A number that is congruent to powers of the generator for every prime, by the Chinese remainder theorem one prime at a time.
    fn fingerprinted() -> Vec<u8> {
        // The generator itself is 65537^1 for all of them.
        GENERATOR.to_be_bytes().to_vec()
    }

    #[test]
    fn powers_of_the_generator_have_it() {
        assert!(has_roca_fingerprint(&fingerprinted()));
        // 65537^16, longer than a word.
        let mut number = vec![1_u8];
        for _ in 0..16 {
            let mut carry = 0_u64;
            let mut product = Vec::new();
            for byte in number.iter().rev() {
                let value = u64::from(*byte) * u64::from(GENERATOR) + carry;
                product.push(u8::try_from(value & 0xff).unwrap());
                carry = value >> 8;
            }
            while carry > 0 {
                product.push(u8::try_from(carry & 0xff).unwrap());
                carry >>= 8;
            }
            product.reverse();
            number = product;
            assert!(has_roca_fingerprint(&number));
        }
        let last = number.len() - 1;
        number[last] ^= 2;
        assert!(!has_roca_fingerprint(&number));
    }

    #[test]
    fn ordinary_moduli_do_not() {
        assert!(!has_roca_fingerprint(&[]));
        let mut found = 0;
        for seed in 0..500_u64 {
            let modulus: Vec<u8> = (0..8_u64)
                .flat_map(|part| {
                    crate::algorithm::HashAlg::Sha256
                        .digest(&[seed.to_be_bytes(), part.to_be_bytes()].concat())
                })
                .collect();
            found += usize::from(has_roca_fingerprint(&modulus));
        }
        assert_eq!(found, 0);
    }
}
