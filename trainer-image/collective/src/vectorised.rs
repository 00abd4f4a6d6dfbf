//! Plain loops, compiled once for each set of vector instructions and chosen among at run time.
//!
//! All versions give the same bits: Rust neither fuses nor reorders operations on floats, whatever instructions it may use.

/// Makes, from each plain function of the same arguments, the version for the processor at hand.
///
/// The plain function, and all that it calls, must be `#[inline(always)]`: what is called stays compiled for the oldest processor.
macro_rules! vectorised {
    ($(
        $(#[$attribute:meta])*
        $visibility:vis fn $name:ident($($argument:ident: $kind:ty),* $(,)?) $(-> $result:ty)? = $plain:path;
    )*) => {$(
        $(#[$attribute])*
        #[multiversion::multiversion(targets(
            "x86_64+avx512f+avx512bw+avx512vl+avx512dq+avx2+fma",
            "x86_64+avx2+fma+bmi2+f16c",
        ))]
        $visibility fn $name($($argument: $kind),*) $(-> $result)? {
            $plain($($argument),*)
        }
    )*};
}

pub(crate) use vectorised;
