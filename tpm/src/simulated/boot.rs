//! A writer of realistic firmware event logs.
//!
//! Comes in: what should differ between two boots. Goes out: a crypto-agile UEFI log with SHA-256 and SHA-384 and the
//! measurements to extend into a TPM, so that a software TPM without firmware can be booted. The digests of firmware
//! and applications are made up from the seed; everything else hashes as real firmware does it.

use crate::algorithm::HashAlg;
use crate::eventlog::event_type;
use crate::eventlog::variable::{EFI_GLOBAL_VARIABLE, IMAGE_SECURITY_DATABASE};

/// Bytes that an event costs besides its data: register, type, count, two digests, size.
const EVENT_OVERHEAD: usize = 4 + 4 + 4 + (2 + 32) + (2 + 48) + 4;

/// What a simulated boot looks like. Two boots with equal options are equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootOptions {
    /// Varies firmware and application digests.
    pub seed: u64,
    /// Value of the SecureBoot variable.
    pub secure_boot: bool,
    /// Whether the firmware says that a debugger is attached.
    pub debug_mode: bool,
    /// Path of what the firmware starts. It is logged, and no part of any digest.
    pub boot_loader_path: String,
    /// Varies the digest of what the firmware starts, and nothing else; 0 is the one that the seed makes.
    pub boot_loader_build: u64,
    /// Kernel command line, measured into PCR 8. GRUB begins it with the kernel's path.
    pub kernel_command_line: String,
    /// Whether a unified kernel image boots: its stub measures name and contents of each section into PCR 11.
    pub unified_kernel: bool,
    /// The log is filled up to this length with entries of the revocation list, if it is shorter; up to that of the default path and command line,
    /// so that these change nothing else.
    pub pad_to_bytes: usize,
}

impl Default for BootOptions {
    fn default() -> Self {
        Self {
            seed: 0,
            secure_boot: true,
            debug_mode: false,
            boot_loader_path: "\\EFI\\sim\\shimx64.efi".to_owned(),
            boot_loader_build: 0,
            kernel_command_line: "/vmlinuz root=/dev/vda1 ro quiet".to_owned(),
            unified_kernel: false,
            pad_to_bytes: 0,
        }
    }
}

/// One extension of one register.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measurement {
    /// The register.
    pub pcr: u32,
    /// Digest for the SHA-256 bank.
    pub sha256: [u8; 32],
    /// Digest for the SHA-384 bank.
    pub sha384: [u8; 48],
}

/// A log and what it measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimulatedBoot {
    log: Vec<u8>,
    measurements: Vec<Measurement>,
}

impl SimulatedBoot {
    /// Writes the log of one boot.
    pub fn new(options: &BootOptions) -> Self {
        let BootOptions { boot_loader_path, kernel_command_line, .. } = BootOptions::default();
        let usual = BootOptions { boot_loader_path, kernel_command_line, ..options.clone() };
        let missing = options.pad_to_bytes.saturating_sub(Self::with_revocations(&usual, &[]).log.len());
        let dbx = if missing == 0 { Vec::new() } else { revocations(missing) };
        Self::with_revocations(options, &dbx)
    }

    /// The log as `binary_bios_measurements` would show it.
    pub fn log(&self) -> &[u8] {
        &self.log
    }

    /// What to extend, in order.
    pub fn measurements(&self) -> &[Measurement] {
        &self.measurements
    }

    fn with_revocations(options: &BootOptions, dbx: &[u8]) -> Self {
        let mut boot = Self { log: spec_id(), measurements: Vec::new() };
        boot.firmware(options);
        boot.secure_boot_policy(options, dbx);
        boot.boot_attempt(options);
        boot.boot_loader(options);
        boot
    }

    /// The root of trust and the rest of the firmware, PCR 0.
    fn firmware(&mut self, options: &BootOptions) {
        let version: Vec<u8> = "SIM-1.0\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
        self.measure(0, event_type::S_CRTM_VERSION, &version, &version);
        for (name, base, length) in
            [("pei", 0x0082_0000u64, 0x000e_0000u64), ("dxe", 0x0090_0000, 0x00c0_0000)]
        {
            let data = [base.to_le_bytes(), length.to_le_bytes()].concat();
            self.measure(0, event_type::EFI_PLATFORM_FIRMWARE_BLOB, &data, &content(options, name));
        }
    }

    /// Secure Boot variables and their separator, PCR 7.
    fn secure_boot_policy(&mut self, options: &BootOptions, dbx: &[u8]) {
        let state = [u8::from(options.secure_boot)];
        let keys = |name| if options.secure_boot { content(options, name).repeat(24) } else { Vec::new() };
        let global = EFI_GLOBAL_VARIABLE;
        self.variable(7, &global, "SecureBoot", &state);
        self.variable(7, &global, "PK", &keys("PK"));
        self.variable(7, &global, "KEK", &keys("KEK"));
        self.variable(7, &IMAGE_SECURITY_DATABASE, "db", &keys("db"));
        self.variable(7, &IMAGE_SECURITY_DATABASE, "dbx", dbx);
        if options.debug_mode {
            self.measure(7, event_type::EFI_ACTION, b"UEFI Debug Mode", b"UEFI Debug Mode");
        }
        self.separator(7);
    }

    /// Boot order, the start of the boot attempt, and the remaining separators.
    fn boot_attempt(&mut self, options: &BootOptions) {
        let data = variable_data(&EFI_GLOBAL_VARIABLE, "BootOrder", &[0, 0, 1, 0]);
        self.measure(1, event_type::EFI_VARIABLE_BOOT, &data, &data);
        let calling = b"Calling EFI Application from Boot Option";
        self.measure(4, event_type::EFI_ACTION, calling, calling);
        for pcr in 0..=6 {
            self.separator(pcr);
        }
        // UEFI_GPT_DATA: a header of 92 bytes and no partitions. TCG PC Client Platform Firmware Profile 1.06, 10.2.7.
        let header = content(options, "partition table").repeat(3).into_iter().take(92);
        let table: Vec<u8> = header.chain(0u64.to_le_bytes()).collect();
        self.measure(5, event_type::EFI_GPT_EVENT, &table, &table);
    }

    /// Loader, kernel, command line, initial file system and the end of boot services.
    fn boot_loader(&mut self, options: &BootOptions) {
        let build = match options.boot_loader_build {
            0 => String::new(),
            build => format!(" build {build}"),
        };
        let shim = format!("shimx64.efi{build}");
        for (path, name, address) in [
            (options.boot_loader_path.as_str(), shim.as_str(), 0x7b00_0000u64),
            ("\\EFI\\sim\\grubx64.efi", "grubx64.efi", 0x7a00_0000),
        ] {
            let path = file_path(path);
            let mut data = address.to_le_bytes().to_vec();
            data.extend(0x000e_8000u64.to_le_bytes());
            data.extend(0u64.to_le_bytes());
            data.extend(u64::from(len32(&path)).to_le_bytes());
            data.extend(path);
            self.measure(4, event_type::EFI_BOOT_SERVICES_APPLICATION, &data, &content(options, name));
        }
        let line = options.kernel_command_line.as_bytes();
        let data = [b"kernel_cmdline: ", line, b"\0"].concat();
        self.measure(8, event_type::IPL, &data, line);
        for name in ["/vmlinuz", "/initrd.img"] {
            let data = [name.as_bytes(), b"\0"].concat();
            self.measure(9, event_type::IPL, &data, &content(options, name));
        }
        if options.unified_kernel {
            for name in [".linux", ".osrel", ".cmdline", ".initrd", ".uname"] {
                let data: Vec<u8> = name.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
                self.measure(11, event_type::IPL, &data, format!("{name}\0").as_bytes());
                self.measure(11, event_type::IPL, &data, &content(options, name));
            }
        }
        for action in ["Exit Boot Services Invocation", "Exit Boot Services Returned with Success"] {
            self.measure(5, event_type::EFI_ACTION, action.as_bytes(), action.as_bytes());
        }
    }

    fn variable(&mut self, pcr: u32, guid: &[u8; 16], name: &str, value: &[u8]) {
        let data = variable_data(guid, name, value);
        self.measure(pcr, event_type::EFI_VARIABLE_DRIVER_CONFIG, &data, &data);
    }

    fn separator(&mut self, pcr: u32) {
        self.measure(pcr, event_type::SEPARATOR, &[0; 4], &[0; 4]);
    }

    /// Appends a TCG_PCR_EVENT2 whose digests are over `measured`.
    fn measure(&mut self, pcr: u32, kind: u32, data: &[u8], measured: &[u8]) {
        use sha2::Digest;
        let sha256: [u8; 32] = sha2::Sha256::digest(measured).into();
        let sha384: [u8; 48] = sha2::Sha384::digest(measured).into();
        let log = &mut self.log;
        log.extend(pcr.to_le_bytes());
        log.extend(kind.to_le_bytes());
        log.extend(2u32.to_le_bytes());
        log.extend(HashAlg::Sha256.id().to_le_bytes());
        log.extend(sha256);
        log.extend(HashAlg::Sha384.id().to_le_bytes());
        log.extend(sha384);
        log.extend(len32(data).to_le_bytes());
        log.extend(data);
        self.measurements.push(Measurement { pcr, sha256, sha384 });
    }
}

fn len32(data: &[u8]) -> u32 {
    u32::try_from(data.len()).unwrap_or(u32::MAX)
}

/// A device path with one File Path node, as long as one can be. UEFI 2.10, 10.3.5.4.
fn file_path(path: &str) -> Vec<u8> {
    let text: Vec<u8> = path.encode_utf16().take(0x7000).chain([0]).flat_map(u16::to_le_bytes).collect();
    let len = u16::try_from(text.len().saturating_add(4)).unwrap_or(u16::MAX);
    [&[4, 4][..], &len.to_le_bytes(), &text, &[0x7f, 0xff, 4, 0]].concat()
}

/// Stands for the contents of something that a real boot would load.
fn content(options: &BootOptions, name: &str) -> Vec<u8> {
    HashAlg::Sha256.digest_parts(&[b"simulated boot", &options.seed.to_be_bytes(), name.as_bytes()])
}

/// A list of digests that fills about `missing` bytes, as a revocation list would.
fn revocations(missing: usize) -> Vec<u8> {
    const SHA256: [u8; 16] =
        [0x26, 0x16, 0xc4, 0xc1, 0x4c, 0x50, 0x92, 0x40, 0xac, 0xa9, 0x41, 0xf9, 0x36, 0x93, 0x43, 0x28];
    let entries = missing.div_ceil(48);
    // SignatureOwner and a SHA-256 digest each. UEFI 2.10, 32.4.1.
    let entry = |n: usize| [vec![0x77; 16], HashAlg::Sha256.digest(&n.to_be_bytes())].concat();
    let len = u32::try_from(28 + 48 * entries).unwrap_or(u32::MAX);
    let header = [SHA256.as_slice(), &len.to_le_bytes(), &0u32.to_le_bytes(), &48u32.to_le_bytes()].concat();
    header.into_iter().chain((0..entries).flat_map(entry)).collect()
}

fn variable_data(guid: &[u8; 16], name: &str, value: &[u8]) -> Vec<u8> {
    let name: Vec<u16> = name.encode_utf16().collect();
    let mut data = guid.to_vec();
    data.extend(u64::try_from(name.len()).unwrap_or(u64::MAX).to_le_bytes());
    data.extend(u64::try_from(value.len()).unwrap_or(u64::MAX).to_le_bytes());
    data.extend(name.into_iter().flat_map(u16::to_le_bytes));
    data.extend(value);
    data
}

/// The header event: SHA-1 form, TCG_EfiSpecIDEvent with two banks.
fn spec_id() -> Vec<u8> {
    let mut data = b"Spec ID Event03\0".to_vec();
    data.extend(0u32.to_le_bytes());
    // specVersionMinor, specVersionMajor, specErrata, uintnSize (in units of 32 bits).
    data.extend([0, 2, 0, 2]);
    data.extend(2u32.to_le_bytes());
    for (alg, len) in [(HashAlg::Sha256, 32u16), (HashAlg::Sha384, 48)] {
        data.extend(alg.id().to_le_bytes());
        data.extend(len.to_le_bytes());
    }
    data.push(0);
    let mut log = Vec::with_capacity(EVENT_OVERHEAD * 32);
    log.extend(0u32.to_le_bytes());
    log.extend(event_type::NO_ACTION.to_le_bytes());
    log.extend([0; 20]);
    log.extend(len32(&data).to_le_bytes());
    log.extend(data);
    log
}
