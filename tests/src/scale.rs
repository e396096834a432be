//! How big the tests are: small in `make test`, the sizes of the acceptance list in `make soak`. Same code, bigger numbers.

/// Tells whether the long forms were asked for.
pub fn soak() -> bool {
    std::env::var_os("CASEMATE_SOAK").is_some()
}

/// Returns `small`, or `full` when the long forms were asked for.
pub fn pick<T>(small: T, full: T) -> T {
    if soak() { full } else { small }
}

/// Bytes in a mebibyte.
pub const MIB: u64 = 1024 * 1024;
