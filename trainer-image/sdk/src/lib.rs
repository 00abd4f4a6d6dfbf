//! What a trainer links to talk to its sidecar: shared regions and collective operations.
