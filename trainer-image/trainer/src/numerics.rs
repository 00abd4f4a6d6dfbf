//! Within what the same run gives the same hash.

/// The class within which sums come out alike: release, processor features, and threads of each trainer.
#[must_use]
pub fn class(threads: usize) -> String {
    #[cfg(target_arch = "x86_64")]
    let features = if std::arch::is_x86_feature_detected!("avx512f") {
        "x86-64 AVX-512"
    } else if std::arch::is_x86_feature_detected!("avx2") {
        "x86-64 AVX2"
    } else {
        "x86-64"
    };
    #[cfg(not(target_arch = "x86_64"))]
    let features = std::env::consts::ARCH;
    format!("atoll {}, {features}, {threads} threads per trainer", env!("CARGO_PKG_VERSION"))
}
