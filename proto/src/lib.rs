//! Atoll's wire messages and services, generated from the .proto files.
