//! The process beside a trainer that owns the network: peer, coordinator role, lanes.
