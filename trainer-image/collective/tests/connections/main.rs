//! Connections between peers as sidecars use them: tonic over mutual TLS, over TCP and through a relay.
#![allow(clippy::unwrap_used, missing_docs)]

mod echo;
mod relayed;
mod secured;
mod tunnels;
