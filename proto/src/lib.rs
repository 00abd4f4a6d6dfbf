//! Atoll's wire messages and services, generated from the `.proto` files of this folder, and how their calls encode them. No
//! logic.

pub mod checked;

mod exact;

/// Version 1 of the protocol.
pub mod v1 {
    #![allow(missing_docs, clippy::pedantic, clippy::unwrap_used, clippy::large_enum_variant, unreachable_pub)]
    tonic::include_proto!("atoll.v1");
    tonic::include_proto!("seam/atoll.v1");
}

/// Lowest and highest version of the protocol that this build speaks.
pub const PROTOCOL: std::ops::RangeInclusive<u32> = 1..=1;
